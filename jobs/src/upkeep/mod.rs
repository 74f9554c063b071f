//! UPKEEP: a table's files and log, kept as they should be beside running jobs. Rows leave where they are to, and are
//! never changed.
//!
//! ```text
//!   compact     live files of a date ─> plan ─> rewrite (read, sort, write, read again) ─> commit, if all are still live
//!   retain      dates beyond their retention ─> are their windows final? ─> commit: whole files out, counts told
//!   archive     dates ─> files elsewhere ─> read back ─> manifest; and back into raw, as a fill
//!   forget      files with a person's rows ─> rewrite without them ─> commit, if all are still live
//!   vacuum      folder, then log ─> what no version needs since the limit ─> delete
//!   checkpoint  versions since the last one ─> write
//!   describe, history                          only look
//!   due         retain, compact, checkpoint, vacuum: what each table needs
//! ```
//!
//! What to do is decided by [`deltaworks_core::upkeep`]. Each job shows its plan first where it is asked to, may be
//! interrupted at any step, and finds nothing to do when it is run again.

// in flow order
mod compact;
mod rewrite;

mod archive;

mod retain;

mod forget;

mod removal;

mod vacuum;

mod checkpoint;

mod describe;

mod due;

// beside the flow
mod open;

pub use archive::{
    ArchiveOptions, ArchiveReport, ArchivedColumn, ArchivedDate, ArchivedFile, Manifest, RestoreOptions, RestoreReport,
    RestoredDate, archive, archive_on, plan_archive, restore_on,
};
pub use checkpoint::{CheckpointDone, checkpoints, checkpoints_on};
pub use compact::{CompactOptions, CompactReport, CompactedDate, DatePlan, compact, compact_on, plan_compaction};
pub use describe::{ColumnLine, Described, HistoryLine, describe, history};
pub use due::{NotDone, Step, UpkeepOptions, UpkeepPlan, UpkeepReport, plan_upkeep, plan_upkeep_on, upkeep, upkeep_on};
pub use forget::{ForgetOptions, ForgetReport, ForgottenDate, forget, forget_on, plan_forget};
pub use open::{parse_name, parse_period, parse_size};
pub use retain::{RetainDate, RetainOptions, RetainReport, RetainTable, plan_retain, retain, retain_on};
pub use vacuum::{UnneededFile, VacuumOptions, VacuumReport, VacuumTable, plan_vacuum, vacuum, vacuum_on};

#[cfg(test)]
mod tests;
