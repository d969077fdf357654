"""All metrics of the service. The description of each is the question that it answers."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """The metrics of one process, in a registry of their own so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._make_role()
        self._make_progress()
        self._make_losses()
        self._make_times()
        self._make_models()
        self._make_lake()

    def _make_role(self) -> None:
        """Is it there, is it alone, and do its servers answer?"""
        self.build = Info("lotus_lake_build", "Which version runs?", registry=self.registry)
        self.ready = self._gauge("lotus_lake_ready", "Does everything that is needed answer?")
        self.is_writer = self._gauge("lotus_lake_is_writer", "Is this process the one that writes?")
        self.epoch = self._gauge("lotus_lake_writer_epoch", "Which term is it?")
        self.takeovers = self._counter(
            "lotus_lake_takeovers_total", "How often did this process become the writer?"
        )
        self.dependency_up = self._gauge(
            "lotus_lake_dependency_up",
            "Did this server answer when it was last asked: nats, s3, postgresql, filer?",
            "dependency",
        )
        self.tail_connected = self._gauge(
            "lotus_lake_filer_tail_connected", "Does the filer tail hear the filer?"
        )
        self.reconnects = self._counter(
            "lotus_lake_reconnects_total",
            "How often did a server answer again that had not?",
            "dependency",
        )
        self.requests = self._counter(
            "lotus_lake_requests_total",
            "How often was which service asked, and with what result? 200 is done, 4xx a wrong request.",
            "service",
            "code",
        )
        self.spool_bytes = self._gauge("lotus_lake_spool_bytes", "How full is the spool?")
        self.spool_max_bytes = self._gauge("lotus_lake_spool_max_bytes", "How full may the spool get?")
        self.spool_free_bytes = self._gauge(
            "lotus_lake_spool_disk_free_bytes", "How much room is left on the spool's disk?"
        )

    def _make_progress(self) -> None:
        """Is it keeping up?"""
        self.pending = self._gauge(
            "lotus_lake_pending_keys", "How many keys wait in the queue?", "source", "stream"
        )
        self.oldest_pending = self._gauge(
            "lotus_lake_oldest_pending_seconds",
            "How long has the oldest key been in the queue? 0: there is none.",
            "source",
            "stream",
        )
        self.in_work = self._gauge("lotus_lake_keys_in_work", "How many keys are in work right now?")
        self.put_to_staging = self._histogram(
            "lotus_lake_put_to_staging_seconds",
            "How long from the PUT until the rows are in staging?",
            "source",
            "stream",
        )
        self.put_to_fct = self._histogram(
            "lotus_lake_put_to_fct_seconds",
            "How long from the PUT until the rows are in all models below the stream?",
            "source",
            "stream",
        )
        self.files = self._counter(
            "lotus_lake_files_loaded_total", "How many files were loaded?", "source", "stream"
        )
        self.rows = self._counter(
            "lotus_lake_rows_loaded_total", "How many rows were loaded?", "source", "stream"
        )
        self.retries = self._counter(
            "lotus_lake_retries_total", "How often did a key have to wait for what?", "cause"
        )

    def _make_losses(self) -> None:
        """Is it losing anything?"""
        self.events = self._counter(
            "lotus_lake_events_total",
            "Which way in brought how many keys, new ones or ones already pending?",
            "way",
            "result",
        )
        self.undecodable = self._counter(
            "lotus_lake_undecodable_events_total", "How many notifications were not understood?", "way"
        )
        self.sweeps = self._counter(
            "lotus_lake_sweeps_total",
            "How often was the bucket swept, and why? All but start, interval and unfinished are gaps.",
            "reason",
        )
        self.sweep_seconds = self._gauge("lotus_lake_sweep_seconds", "How long did the last sweep take?")
        self.swept_at = self._gauge("lotus_lake_swept_timestamp_seconds", "When did the last sweep end?")
        self.gap_at = self._gauge(
            "lotus_lake_gap_timestamp_seconds",
            "When did a sweep last run since notifications may have been missed: a start, a gap, what is left of one?",
        )
        self.swept = self._counter(
            "lotus_lake_sweep_missing_total",
            "How many objects did a sweep find that no notification had brought?",
            "source",
            "stream",
        )
        self.removals_held = self._gauge(
            "lotus_lake_removals_held_keys",
            "How many keys are gone from the bucket and wait for `lotus-lake sweep --confirm`?",
            "source",
            "stream",
        )
        self.verdicts = self._counter(
            "lotus_lake_verdicts_total",
            "What became of the messages?",
            "source",
            "stream",
            "outcome",
            "verdict",
        )
        self.dead = self._counter(
            "lotus_lake_dead_letters_total",
            "How many messages were given up, and why?",
            "source",
            "stream",
            "reason",
        )
        self.stream_blocked = self._gauge(
            "lotus_lake_stream_blocked",
            "Which streams are blocked, since their keys end dead for one reason? One key is tried now and then.",
            "source",
            "stream",
        )
        self.stream_paused = self._gauge(
            "lotus_lake_stream_paused",
            "Which streams has a person paused? Their keys stay in the queue.",
            "source",
            "stream",
        )
        self.rescued = self._counter(
            "lotus_lake_rescued_rows_total",
            "How many rows have something in _rescued_data?",
            "source",
            "stream",
        )
        self.drift = self._counter(
            "lotus_lake_drift_files_total",
            "How many files were not as their table, and what was done: widen (cast), rescue, add or reject?"
            " A file counts once, and once more if its table got columns for it.",
            "source",
            "stream",
            "kind",
        )

    def _make_times(self) -> None:
        """Is it slow, and where?"""
        self.notify_seconds = self._histogram(
            "lotus_lake_notify_seconds", "How long from the filer's log until the key is in the queue?"
        )
        self.stage_seconds = self._histogram(
            "lotus_lake_stage_seconds",
            "Where does the time of a key go? get, note, check and write; write is made of queue and commit.",
            "stage",
        )
        self.batch_items = self._histogram(
            "lotus_lake_batch_items", "With how many keys does a key share its commit?", buckets=SIZES
        )
        self.commit_seconds = self._histogram(
            "lotus_lake_commit_seconds", "How long does a transaction of rows, ledger and cursors take?"
        )
        self.transform_seconds = self._histogram(
            "lotus_lake_transform_seconds", "How long does a model take?", "model"
        )
        self.maintenance_seconds = self._histogram(
            "lotus_lake_maintenance_seconds",
            "How long does a step of maintenance take: merge, rewrite or expire on the writer, clean beside it?",
            "step",
        )

    def _make_models(self) -> None:
        """Are the models right?"""
        self.model_errors = self._gauge(
            "lotus_lake_model_failing", "Which models are held back by an error?", "model"
        )
        self.model_mismatch_rows = self._gauge(
            "lotus_lake_model_mismatch_rows",
            "How many rows of a model's last sample were not what its SELECT gives?",
            "model",
        )
        self.check_rows = self._gauge(
            "lotus_lake_check_rows",
            "How many rows did a check return, of those that must return none?",
            "check",
            "severity",
        )
        self.verify_errors = self._counter(
            "lotus_lake_verify_errors_total", "How often could a model's sample or a check not be read?"
        )
        self.model_keys = self._counter(
            "lotus_lake_model_affected_keys_total",
            "How many keys of a model were made anew, without those of rebuilds?",
            "model",
        )
        self.model_rebuilds = self._counter(
            "lotus_lake_model_rebuilds_total",
            "How often was a model rebuilt as a whole? The log says why.",
            "model",
        )

    def _make_lake(self) -> None:
        """Is the lake healthy?"""
        self.table_files = self._gauge("lotus_lake_table_files", "How many live files has a table?", "table")
        self.table_small_files = self._gauge(
            "lotus_lake_table_small_files", "How many of them are small, or have deleted rows?", "table"
        )
        self.table_bytes = self._gauge("lotus_lake_table_bytes", "How large is a table?", "table")
        self.snapshots = self._gauge("lotus_lake_snapshots", "How many snapshots are there?")
        self.oldest_snapshot_at = self._gauge(
            "lotus_lake_oldest_snapshot_timestamp_seconds", "How far back does time travel go?"
        )
        self.removable_files = self._gauge(
            "lotus_lake_removable_files",
            "How many files does no snapshot need any more, and wait for the janitor?",
        )
        self.cleaned_files = self._counter(
            "lotus_lake_cleaned_files_total", "How many files did the janitor remove?"
        )
        self.orphan_files = self._gauge(
            "lotus_lake_orphan_files",
            "How many files below the lake's path does the catalog not know? Looked for once a day.",
        )
        self.maintenance_files = self._counter(
            "lotus_lake_maintenance_files_total",
            "How many files had the tables before and after their steps of maintenance?",
            "step",
            "when",
        )
        self.maintenance_bytes = self._counter(
            "lotus_lake_maintenance_bytes_total",
            "How many bytes had the tables before and after their steps of maintenance?",
            "step",
            "when",
        )
        self.maintenance_errors = self._counter(
            "lotus_lake_maintenance_errors_total",
            "How often did a step of maintenance fail? The lake is then as it was.",
            "step",
        )

    def end_term(self) -> None:
        """Forgets what only the writer knows: the gauges with labels, and what the spool has."""
        for metric in (
            self.dependency_up,
            self.pending,
            self.oldest_pending,
            self.stream_blocked,
            self.stream_paused,
            self.model_errors,
            self.model_mismatch_rows,
            self.check_rows,
            self.removals_held,
            self.table_files,
            self.table_small_files,
            self.table_bytes,
        ):
            metric.clear()

    def _counter(self, name: str, question: str, *labels: str) -> Counter:
        return Counter(name, question, labels, registry=self.registry)

    def _gauge(self, name: str, question: str, *labels: str) -> Gauge:
        return Gauge(name, question, labels, registry=self.registry)

    def _histogram(
        self, name: str, question: str, *labels: str, buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        return Histogram(name, question, labels, buckets=buckets, registry=self.registry)
