"""A lake whose files come, go and change, with the models after it; and the proof that they equal a rebuild."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from consumer.embedded.identity import Tenant
from consumer.landing.generate import LandingFile
from consumer.landing.parquet import Encoder
from feeders.append import apply_batch
from feeders.failures import Failure
from feeders.increment import ModelRun
from feeders.lake import Lake
from feeders.ledger import LedgerClock
from feeders.maintenance import Policy, maintain_now
from feeders.models import Model, below, load_models
from feeders.project import find_project
from feeders.transform import Transforms
from feeders.work import Load, Removal, Request, Work
from tests.exact import assert_models
from tests.lakes import Definitions, definitions, load_of, open_lake, start_term
from tests.shop_play import MAKERS, small_file

BUCKET = "landing"
FILES_A_STREAM = 4
AT_ONCE = Policy(retention_s=0.0, expire_at_least=1, files_a_merge=2)


class ModelPlay:
    """One lake, its writer's part of it done by hand: what lands, and when the models follow.

    Attributes:
        models: as they are defined at the moment; `restart` may bring others, of those that it was given.
        runs: all runs of models so far.
    """

    def __init__(
        self,
        tenant: Tenant,
        folder: Path,
        *,
        variants: Mapping[str, Sequence[Model]],
        rebuild_share: float,
        rebuild_rows: int = 0,
    ) -> None:
        self._variants = variants
        self.defined: Definitions = definitions()
        self.models: Sequence[Model] = self.defined.models
        self.runs: list[ModelRun] = []
        self._tenant, self._folder, self._rebuild_share = tenant, folder, rebuild_share
        self._rebuild_rows = rebuild_rows
        self._streams = {stream.id: stream for stream in self.defined.streams}
        self._encoders = {each: Encoder(self._streams[each].columns) for each in MAKERS}
        self._bodies: dict[str, bytes] = {}
        self._loads = 0
        self._clock = LedgerClock()
        self.lake: Lake = open_lake(tenant)
        self.epoch = start_term(self.lake, self.defined)
        self.transforms = self._transforms()

    def land(self, dice: random.Random, files: int) -> None:
        """One commit: so many files come, are overwritten, deleted or replayed."""
        works: dict[str, Work] = {}
        for _ in range(files):
            stream = self._streams[dice.choice(sorted(MAKERS))]
            day = dice.randrange(1, FILES_A_STREAM + 1)
            key = f"raw/{stream.id.source}/{stream.id.stream}/year=2026/month=07/day=0{day}/f.parquet"
            match dice.choice(("put", "put", "put", "delete", "replay")):
                case "delete" if key in self._bodies:
                    del self._bodies[key]
                    works[key] = self._removal(key)
                case "replay" if key in self._bodies:
                    works[key] = self._load(key, Request(by="test", reason="again"))
                case _:
                    self._bodies[key] = small_file(stream, dice, self._encoders[stream.id])
                    works[key] = self._load(key, None)
        self._commit(list(works.values()))

    def empty(self) -> None:
        """All files go, and the models follow."""
        works: list[Work] = [self._removal(key) for key in self._bodies]
        self._bodies.clear()
        if works:
            self._commit(works)
            self.follow()

    def follow(self) -> None:
        """The models' run after a commit."""
        if self.transforms.due_in(idle=True) is not None:
            self.transforms.run(self.lake, self.epoch)

    def restart(self, variant: str | None = None) -> None:
        """Another process takes over, with this variant of the models if one is given."""
        self.lake.close()
        self.models = self.models if variant is None else self._variants[variant]
        self.lake = open_lake(self._tenant)
        self.epoch = start_term(self.lake, self.defined)
        self.transforms = self._transforms()

    def maintain(self) -> None:
        """Files are merged and rewritten, and all snapshots expire but those that a model stands at."""
        for _ in maintain_now(self.lake, AT_ONCE):
            pass

    def assert_equal(self, *, but: Sequence[str] = ()) -> None:
        """Asserts that each model equals its SELECT, but for those and what reads them."""
        tables = [model.table for model in self.models if model.name in but]
        held_back = {*but, *(model.name for model in below(self.models, tables))}
        assert_models(self.lake, [model for model in self.models if model.name not in held_back])

    def close(self) -> None:
        self.lake.close()

    def _transforms(self) -> Transforms:
        transforms = Transforms(
            self.models,
            self.defined.streams,
            max_delay_s=0.0,
            rebuild_share=self._rebuild_share,
            rebuild_rows=self._rebuild_rows,
            observe=self.runs.extend,
        )
        transforms.load_behind(self.lake)
        return transforms

    def _commit(self, works: Sequence[Work]) -> None:
        with self.lake.transaction("a batch") as transaction:
            apply_batch(transaction, works, epoch=self.epoch, clock=self._clock, open_failures=set())
        self.transforms.changed({work.stream.id for work in works if not isinstance(work, Failure)})

    def _load(self, key: str, replay: Request | None) -> Load:
        self._loads += 1
        _, source, stream, *_ = key.split("/")
        file = LandingFile(
            key=key, source=source, stream=stream, body=self._bodies[key], rows=0, overwrites=False
        )
        return load_of(file, self.defined, folder=self._folder, etag=f"e{self._loads}", replay=replay)

    def _removal(self, key: str) -> Removal:
        route = self.defined.streams.route(key)
        assert route is not None
        return Removal(
            stream=route.stream, partition=route.partition, bucket=BUCKET, key=key, found_by="test"
        )


def edited_models(folder: Path, edits: Mapping[str, tuple[str, str]]) -> tuple[Model, ...]:
    """The project's models with some text of some of them replaced; `edits` are by the file's name."""
    found = find_project(None)
    for path in found.transforms.rglob("*.sql"):
        text = path.read_text()
        if (edit := edits.get(path.stem)) is not None:
            assert edit[0] in text, path
            text = text.replace(*edit, 1)
        copy = folder / "transforms" / path.relative_to(found.transforms)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    return load_models(replace(found, transforms=folder / "transforms"))
