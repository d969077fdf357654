"""All metrics of the service. The description of each is the question that it answers."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """The metrics of one process, in a registry of their own so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.build = Info("lotus_lake_build", "Which version runs?", registry=registry)
        self.is_writer = Gauge(
            "lotus_lake_is_writer", "Is this process the one that writes?", registry=registry
        )
        self.epoch = Gauge("lotus_lake_writer_epoch", "Which term is it?", registry=registry)
        self.ready = Gauge("lotus_lake_ready", "Does everything that is needed answer?", registry=registry)
        self.pending = Gauge(
            "lotus_lake_pending_keys",
            "How many keys wait in the queue?",
            ["source", "stream"],
            registry=registry,
        )
        self.in_work = Gauge(
            "lotus_lake_keys_in_work", "How many keys are in work right now?", registry=registry
        )
        self.spool_bytes = Gauge("lotus_lake_spool_bytes", "How full is the spool?", registry=registry)
        self.verdicts = Counter(
            "lotus_lake_verdicts_total",
            "What became of the messages?",
            ["source", "stream", "outcome", "verdict"],
            registry=registry,
        )
        self.files = Counter(
            "lotus_lake_files_loaded_total",
            "How many files were loaded?",
            ["source", "stream"],
            registry=registry,
        )
        self.rows = Counter(
            "lotus_lake_rows_loaded_total",
            "How many rows were loaded?",
            ["source", "stream"],
            registry=registry,
        )
        self.rescued = Counter(
            "lotus_lake_rescued_rows_total",
            "How many rows have something in _rescued_data?",
            ["source", "stream"],
            registry=registry,
        )
        self.drift = Counter(
            "lotus_lake_drift_files_total",
            "How many files were not as their table, and what was done: widen (cast), rescue, add or reject?"
            " A file counts once, and once more if its table got columns for it.",
            ["source", "stream", "kind"],
            registry=registry,
        )
        self.dead = Counter(
            "lotus_lake_dead_letters_total",
            "How many messages were given up, and why?",
            ["source", "stream", "reason"],
            registry=registry,
        )
        self.stream_blocked = Gauge(
            "lotus_lake_stream_blocked",
            "Which streams are blocked, since their keys end dead for one reason? One key is tried now and then.",
            ["source", "stream"],
            registry=registry,
        )
        self.stream_paused = Gauge(
            "lotus_lake_stream_paused",
            "Which streams has a person paused? Their keys stay in the queue.",
            ["source", "stream"],
            registry=registry,
        )
        self.retries = Counter(
            "lotus_lake_retries_total",
            "How often did a key have to wait for what?",
            ["cause"],
            registry=registry,
        )
        self.put_to_staging = Histogram(
            "lotus_lake_put_to_staging_seconds",
            "How long from the PUT until the rows are in staging?",
            ["source", "stream"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "lotus_lake_stage_seconds",
            "Where does the time of a key go? get, note, check and write; write is made of queue and commit.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_items = Histogram(
            "lotus_lake_batch_items",
            "With how many keys does a key share its commit?",
            buckets=SIZES,
            registry=registry,
        )
        self.transform_seconds = Histogram(
            "lotus_lake_transform_seconds",
            "How long does a model take?",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.model_keys = Counter(
            "lotus_lake_model_affected_keys",
            "How many keys of a model were made anew, without those of rebuilds?",
            ["model"],
            registry=registry,
        )
        self.model_rebuilds = Counter(
            "lotus_lake_model_rebuilds",
            "How often was a model rebuilt as a whole? The log says why.",
            ["model"],
            registry=registry,
        )
        self.model_errors = Gauge(
            "lotus_lake_model_failing",
            "Which models are held back by an error?",
            ["model"],
            registry=registry,
        )
        self.model_mismatch_rows = Gauge(
            "lotus_lake_model_mismatch_rows",
            "How many rows of a model's last sample were not what its SELECT gives?",
            ["model"],
            registry=registry,
        )
        self.check_rows = Gauge(
            "lotus_lake_check_rows",
            "How many rows did a check return, of those that must return none?",
            ["check", "severity"],
            registry=registry,
        )
        self.verify_errors = Counter(
            "lotus_lake_verify_errors_total",
            "How often could a model's sample or a check not be read?",
            registry=registry,
        )
        self.events = Counter(
            "lotus_lake_events_total",
            "Which way in brought how many keys, new ones or ones already pending?",
            ["way", "result"],
            registry=registry,
        )
        self.tail_connected = Gauge(
            "lotus_lake_filer_tail_connected", "Does the filer tail hear the filer?", registry=registry
        )
        self.notify_seconds = Histogram(
            "lotus_lake_notify_seconds",
            "How long from the filer's log until the key is in the queue?",
            buckets=SECONDS,
            registry=registry,
        )
        self.requests = Counter(
            "lotus_lake_requests_total",
            "How often was which service asked, and with what result? 200 is done, 4xx a wrong request.",
            ["service", "code"],
            registry=registry,
        )
        self.undecodable = Counter(
            "lotus_lake_undecodable_events_total",
            "How many notifications were not understood?",
            ["way"],
            registry=registry,
        )
        self.sweeps = Counter(
            "lotus_lake_sweeps_total",
            "How often was the bucket swept, and why? All but start, interval and unfinished are gaps.",
            ["reason"],
            registry=registry,
        )
        self.sweep_seconds = Gauge(
            "lotus_lake_sweep_seconds", "How long did the last sweep take?", registry=registry
        )
        self.swept_at = Gauge(
            "lotus_lake_swept_timestamp_seconds", "When did the last sweep end?", registry=registry
        )
        self.removals_held = Gauge(
            "lotus_lake_removals_held_keys",
            "How many keys are gone from the bucket and wait for `lotus-lake sweep --confirm`?",
            ["source", "stream"],
            registry=registry,
        )
        self.swept = Counter(
            "lotus_lake_sweep_missing_total",
            "How many objects did a sweep find that no notification had brought?",
            ["source", "stream"],
            registry=registry,
        )
        self.maintenance_seconds = Histogram(
            "lotus_lake_maintenance_seconds",
            "How long does a step of maintenance take: merge, rewrite or expire on the writer, clean beside it?",
            ["step"],
            buckets=SECONDS,
            registry=registry,
        )
        self.maintenance_files = Counter(
            "lotus_lake_maintenance_files_total",
            "How many files had the tables before and after their steps of maintenance?",
            ["step", "when"],
            registry=registry,
        )
        self.maintenance_bytes = Counter(
            "lotus_lake_maintenance_bytes_total",
            "How many bytes had the tables before and after their steps of maintenance?",
            ["step", "when"],
            registry=registry,
        )
        self.maintenance_errors = Counter(
            "lotus_lake_maintenance_errors_total",
            "How often did a step of maintenance fail? The lake is then as it was.",
            ["step"],
            registry=registry,
        )
        self.table_files = Gauge(
            "lotus_lake_table_files", "How many live files has a table?", ["table"], registry=registry
        )
        self.table_small_files = Gauge(
            "lotus_lake_table_small_files",
            "How many of them are small, or have deleted rows?",
            ["table"],
            registry=registry,
        )
        self.table_bytes = Gauge(
            "lotus_lake_table_bytes", "How large is a table?", ["table"], registry=registry
        )
        self.snapshots = Gauge("lotus_lake_snapshots", "How many snapshots are there?", registry=registry)
        self.oldest_snapshot_at = Gauge(
            "lotus_lake_oldest_snapshot_timestamp_seconds",
            "How far back does time travel go?",
            registry=registry,
        )
        self.removable_files = Gauge(
            "lotus_lake_removable_files",
            "How many files does no snapshot need any more, and wait for the janitor?",
            registry=registry,
        )
        self.cleaned_files = Counter(
            "lotus_lake_cleaned_files_total", "How many files did the janitor remove?", registry=registry
        )
        self.orphan_files = Gauge(
            "lotus_lake_orphan_files",
            "How many files below the lake's path does the catalog not know? Looked for once a day.",
            registry=registry,
        )
