"""Lets verl run on a machine without a GPU, for the tests only: a platform, a process group and a rollout engine.

verl imports it in the driver and in every worker (`VERL_USE_EXTERNAL_MODULES=tests.engines.verl.cpu`). The rest is
verl's own: Ray, TransferQueue, agent loops, FSDP2, checkpoints.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import ray
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import set_platform

NAME = "empg_hf"


class _Device:
    """Stands in for `torch.cuda`: there is no memory to count and nothing to wait for."""

    get_rng_state = staticmethod(torch.get_rng_state)
    set_rng_state = staticmethod(torch.set_rng_state)

    def is_available(self) -> bool:
        return False

    def get_device_name(self, *_: Any) -> str:
        return "cpu"

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
    """Generates with transformers, one request at a time, and the same tokens in every run.

    Half of the sampled episodes and all greedy ones are those of `expert.json` in the folder of the model, so that some
    episodes are won: a list of episodes, each a list of `[context, turn]` in token ids.
    """

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
        episodes = json.loads((Path(path) / "expert.json").read_text())
        self.expert = {tuple(context): turn for episode in episodes for context, turn in episode}
        self.openings = {tuple(episode[0][0]) for episode in episodes}
        self.requests: Counter[tuple[int, ...]] = Counter()
        self.version = 0

    async def generate(self, prompt_ids, sampling_params, **_: Any) -> TokenOutput:
        context = tuple(prompt_ids)
        number = self.requests[context]
        self.requests[context] += 1
        sampled = sampling_params["temperature"] > 0
        follows = context in self.expert and not (sampled and context in self.openings and number % 2)
        turn = self.expert[context] if follows else self._written(context, number, sampled, sampling_params)
        logits = self.model(torch.tensor([[*context, *turn]])).logits[0, len(context) - 1 : -1]
        log_probs = logits.float().log_softmax(-1).gather(1, torch.tensor(turn)[:, None])[:, 0]
        return TokenOutput(
            token_ids=turn,
            log_probs=log_probs.tolist(),
            stop_reason="completed",
            extra_fields={"global_steps": self.version},
        )

    def _written(self, context, number, sampled, sampling_params) -> list[int]:
        ids = torch.tensor([context])
        torch.manual_seed(hash((self.version, number, context)))
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling_params["max_tokens"],
            do_sample=sampled,
            top_k=0,
            top_p=1.0,
            eos_token_id=sampling_params["stop_token_ids"],
            pad_token_id=0,
        )
        return out[0, len(context) :].tolist()

    async def load(self, weights: dict[str, torch.Tensor], version: int | None) -> None:
        self.model.load_state_dict(weights, strict=False)
        self.version = version or 0
        self.requests.clear()

    async def sleep(self, *_: Any, **__: Any) -> None:
        pass

    wake_up = abort_all_requests = resume_generation = clear_kv_cache = release_kv_cache = resume_kv_cache = sleep


class Replica(RolloutReplica):  # type: ignore[misc]
    """The only one: it spans all ranks, as with tensor parallelism, so that one process sees every request."""

    async def launch_servers(self) -> None:
        remote: Any = Server  # the decorator replaced it
        server = remote.options(name=NAME).remote(self.model_config.path)
        self.servers, self._server_handle, self._server_address = [server], server, NAME


class Adapter(BaseRollout):  # type: ignore[misc]
    """In the training workers: the first one sends the weights to the server."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, wire_format="named_tensors", *, global_steps=None, **_: Any):
        full = {name: getattr(w, "full_tensor", lambda w=w: w)().detach().cpu() for name, w in weights}
        if torch.distributed.get_rank() == 0:
            await ray.get_actor(NAME).load.remote(full, global_steps)


RolloutReplicaRegistry.register(NAME, lambda: Replica)
_ROLLOUT_REGISTRY[NAME, "async"] = f"{__name__}.Adapter"
