"""A pipeline: several instrumentals at once, each split into stems, and each stem cut down.

    python examples/pipeline.py out "ambient, slow" "house, piano"

An output is the source of the next request. If its URL expires meanwhile, the session renews it.
"""

import asyncio
import sys
from pathlib import Path

from soundpiece_async import AutoCutDown, NewInstrumental, Output, SavedFile, SeparateStems, Session


async def cut(session: Session, stem: Output, out: Path, *, name: str, seconds: float) -> SavedFile:
    """Cut one stem down, and save it under a readable name."""
    done = await session.run(AutoCutDown(stem, target_duration=seconds))
    return await session.download(done.operation.outputs[0], out, name=f"{name}-{stem.kind}", overwrite=True)


async def produce(session: Session, prompt: str, out: Path, *, seconds: float) -> list[SavedFile]:
    """Run all steps for one prompt; the last step runs for all stems concurrently."""
    track = await session.run(NewInstrumental(prompt))
    stems = await session.run(SeparateStems(track.operation.outputs[0]))
    async with asyncio.TaskGroup() as group:
        cuts = [
            group.create_task(cut(session, stem, out, name=prompt, seconds=seconds)) for stem in stems.operation.outputs
        ]
    return [task.result() for task in cuts]


async def main(out: Path, prompts: list[str], *, seconds: float = 10.0) -> None:
    """Run all prompts concurrently, within the limits of the session."""
    async with Session() as session, asyncio.TaskGroup() as group:
        tracks = [group.create_task(produce(session, prompt, out, seconds=seconds)) for prompt in prompts]
        for track in tracks:
            for file in await track:
                print(f"{file.duration:6.1f} s  {file.path}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
