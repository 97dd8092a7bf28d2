"""Lets verl run on a machine without a GPU, for the tests only: a platform, a process group and a rollout engine.

verl imports it in the driver and in every worker (`VERL_USE_EXTERNAL_MODULES=tests.engines.verl.cpu`). The rest is
verl's own: Ray, TransferQueue, agent loops, FSDP2, checkpoints.
"""

from __future__ import annotations

import contextlib
from typing import Any

import ray
import torch
from transformers import AutoModelForCausalLM
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import set_platform

NAME = "empg_hf"


class _Device:
    """Stands in for `torch.cuda`: there is no memory to count and nothing to wait for."""

    get_rng_state = staticmethod(torch.get_rng_state)
    set_rng_state = staticmethod(torch.set_rng_state)

    def is_available(self) -> bool:
        return False

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        return 0, 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: 0


class CPU(PlatformBase):  # type: ignore[misc]  # verl has no types
    device_name = vendor_name = "cpu"
    device_module = _Device()

    def is_available(self):
        return True

    def current_device(self):
        return "cpu"  # where tensors are moved to

    def device_count(self):
        return 1

    def set_device(self, device_index):
        pass

    def synchronize(self, device_index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg):
        yield

    def profiler_start(self):
        pass

    profiler_stop = profiler_start

    def ray_resource_name(self):
        return "GPU"  # verl counts no other resource; the test declares two

    def ray_noset_envvars(self):
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None


set_platform(CPU())

_init_process_group = torch.distributed.init_process_group


def init_process_group(backend: Any = None, **arguments: Any) -> None:
    """verl asks for `cpu:gloo` twice, once for its device."""
    _init_process_group("gloo", **arguments)


torch.distributed.init_process_group = init_process_group  # type: ignore[assignment]

from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout  # noqa: E402  # imports modules that ask for the platform
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput  # noqa: E402


@ray.remote(num_cpus=0)
class Server:
    """Generates with transformers, one request at a time."""

    def __init__(self, path: str, seed: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
        self.version = 0

    async def generate(self, prompt_ids, sampling_params, request_id, **_: Any) -> TokenOutput:
        ids = torch.tensor([list(prompt_ids)])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling_params["max_tokens"],
            do_sample=sampling_params["temperature"] > 0,
            top_k=0,
            top_p=1.0,
            eos_token_id=sampling_params["stop_token_ids"],
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        written = out.sequences[0, ids.shape[1] :]
        scores = torch.cat(out.logits).float().log_softmax(-1)
        return TokenOutput(
            token_ids=written.tolist(),
            log_probs=scores.gather(1, written[:, None])[:, 0].tolist(),
            stop_reason="completed",
            extra_fields={"global_steps": self.version},
        )

    async def load(self, weights: dict[str, torch.Tensor], version: int | None) -> None:
        self.model.load_state_dict(weights, strict=False)
        self.version = version or 0

    async def sleep(self, *_: Any, **__: Any) -> None:
        pass

    wake_up = abort_all_requests = resume_generation = clear_kv_cache = release_kv_cache = resume_kv_cache = sleep


class Replica(RolloutReplica):  # type: ignore[misc]
    async def launch_servers(self) -> None:
        name = f"{NAME}_{self.replica_rank}"
        remote: Any = Server  # the decorator replaced it
        server = remote.options(name=name).remote(self.model_config.path, self.replica_rank)
        self.servers, self._server_handle, self._server_address = [server], server, name


class Adapter(BaseRollout):  # type: ignore[misc]
    """In the training worker: sends its weights to the server of its rank."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, wire_format="named_tensors", *, global_steps=None, **_: Any):
        full = {name: getattr(w, "full_tensor", lambda w=w: w)().detach().cpu() for name, w in weights}
        server = ray.get_actor(f"{NAME}_{torch.distributed.get_rank()}")
        await server.load.remote(full, global_steps)


RolloutReplicaRegistry.register(NAME, lambda: Replica)
_ROLLOUT_REGISTRY[NAME, "async"] = f"{__name__}.Adapter"
