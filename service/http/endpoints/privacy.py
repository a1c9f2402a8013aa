"""Lists the endpoints on personal data."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from service.http.schemas import Call, ChangeRequest, Endpoint, ReasonText, ResponseModel, ShortText
from service.operators.privacy import ErasureRequest


class EraseData(ChangeRequest):
    """Selects a user, a batch, a text or an upload of a batch, or files by a part of their names."""

    user: ReasonText | None = Field(None, description="all batches of this user, and those still to come")
    batch: ShortText | None = Field(None, description="this batch, with all its uploads, or the batch of an upload")
    text: ShortText | None = Field(None, description="only this text of the batch: its text storage id")
    upload: ShortText | None = Field(None, description="only this upload of the batch")
    file: ShortText | None = Field(None, description="all uploads whose file names contain this")
    dry_run: bool = Field(False, description="only show what would be erased; change nothing")
    confirmed: bool = Field(False, description="with `file`: erase what a dry run has shown")
    wait: int = Field(20, ge=1, le=60, description="seconds to wait until the events concerned are published")

    @model_validator(mode="after")
    def _check_selection(self) -> "EraseData":
        """Accept one selection."""
        alone = [each for each in (self.user, self.batch, self.file) if each is not None]
        of_a_batch = [each for each in (self.text, self.upload) if each is not None]
        if len(alone) != 1 or len(of_a_batch) > 1 or (of_a_batch and self.batch is None) or not alone[0]:
            raise ValueError("give user, batch, batch and text, batch and upload, or file")
        if self.file and not (self.dry_run or self.confirmed):
            raise ValueError("file: see what it matches with dry_run, then give confirmed")
        return self

    @property
    def what(self) -> ErasureRequest:
        """The selection."""
        if self.user is not None:
            return ErasureRequest("user", name=self.user)
        if self.file is not None:
            return ErasureRequest("file", name=self.file)
        if self.text is not None:
            return ErasureRequest("text", self.batch or "", self.text)
        if self.upload is not None:
            return ErasureRequest("upload", self.batch or "", self.upload)
        return ErasureRequest("batch", self.batch or "")


class BlockedErasure(ResponseModel):
    batch_id: str
    why: str


class ErasedData(ResponseModel):
    kind: str
    dry_run: bool
    batches: list[dict[str, Any]] = Field(description="what was erased of each batch: rows by table")
    matches: list[dict[str, Any]] = Field(description="the uploads that a part of a file name matches")
    rejected_inputs: int
    unsearchable_inputs: int = Field(description="rejected record batches, which may be compressed")
    operator_actions: int = Field(description="operator actions whose texts were erased")
    blocked: list[BlockedErasure] = Field(description="batches that were not erased in time: request it again")
    remaining: list[str] = Field(description="where it remains")


async def _erase(call: Call) -> object:
    request: EraseData = call.request
    return await call.operations.privacy.erase(
        call.by, request.what, dry_run=request.dry_run, wait_seconds=request.wait
    )


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "POST",
            "/admin/privacy/erase",
            "Erase personal data of a user, a batch, an upload, or files",
            EraseData,
            ErasedData,
            _erase,
        ),
    )
