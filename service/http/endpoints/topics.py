"""Lists the endpoints on topics."""

from collections.abc import Sequence

from pydantic import Field

from service.http.schemas import Call, ChangeRequest, Endpoint, ResponseModel


class AdoptPartitions(ChangeRequest):
    while_publishing: bool = Field(
        False, description="also while relays run: then the events of one batch may be in two partitions"
    )
    dry_run: bool = Field(False, description="only return what would change")


class AdoptedTopic(ResponseModel):
    topic: str
    used_before: int
    partitions: int


class AdoptedTopics(ResponseModel):
    topics: list[AdoptedTopic]


async def _adopt(call: Call) -> object:
    request: AdoptPartitions = call.request
    adopted = await call.operations.output_topics.adopt(
        call.by, while_publishing=request.while_publishing, dry_run=request.dry_run
    )
    return {"topics": [each._asdict() for each in adopted]}


def endpoints() -> Sequence[Endpoint]:
    """Return the endpoints of this group."""
    return (
        Endpoint(
            "POST",
            "/admin/topics/adopt",
            "Publish to the partitions, too, that were added to the output topics, as relays found them",
            AdoptPartitions,
            AdoptedTopics,
            _adopt,
        ),
    )
