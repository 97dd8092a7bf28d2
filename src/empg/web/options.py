"""Settings of requests to other machines, as a recipe gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, StrictFloat, StrictInt, StrictStr

from empg.validation import Checked

if TYPE_CHECKING:  # options are read without httpx
    from empg.web.client import RequestPolicy

Text = Annotated[StrictStr, Field(min_length=1)]
LONGEST = 86_400.0
"""The longest `timeout` in seconds: a day, after which the connection layer ends any wait (`addresses.py`)."""
KEY_VARIABLE = "JUDGE_API_KEY"


class Requests(Checked):
    """How other machines are asked, where it differs from what is usual (`client.RequestPolicy`)."""

    per_second: StrictFloat | None = Field(
        None, gt=0.0, description="requests per second of one process; null: no limit"
    )
    timeout: StrictFloat | None = Field(
        None, gt=0.0, le=LONGEST, description="seconds per attempt; null: 10 for a search, 15 for a page"
    )
    attempts: StrictInt | None = Field(None, ge=1, description="attempts per request, at most; null: 3, for a page 2")

    def over(self, usual: RequestPolicy) -> RequestPolicy:
        """The usual request policy with these values in their place."""
        given = {"per_second": self.per_second, "timeout": self.timeout, "attempts": self.attempts}
        return replace(usual, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


class Judging(Requests):
    """A model behind an OpenAI-compatible endpoint that judges, and how it is asked."""

    timeout: StrictFloat | None = Field(None, gt=0.0, le=LONGEST, description="seconds per attempt; null: 60")
    attempts: StrictInt | None = Field(None, ge=1, description="attempts per request, at most; null: 3")
    url: Text = Field(description="the address of the API, `https://HOST/v1`")
    model: Text = Field(description="the name of the model there")
    key_variable: Text | None = Field(
        KEY_VARIABLE, description="the environment variable that holds the key; null sends no key"
    )
    max_tokens: StrictInt = Field(16, ge=1, description="tokens per verdict; more for a model that thinks first")
