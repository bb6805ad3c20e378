//! Logs, progress, tables and pictures of a run.
//!
//! | File | What lives there |
//! |---|---|
//! | [`log`] | the metrics log of a run, one JSON object a line |
//! | [`csv`], [`tensorboard`] | the same numbers for other programs |
//! | [`page`] | `report.html`: a page about a run, or several |
//! | [`shown`] | the pictures of a page, listed |
//! | [`serve`] | an HTTP server for pages on this machine |
//! | [`run_folder`] | a run on disk: the names of its files, the lines of its log |
//! | [`progress`] | the progress bar of a training run |
//! | [`shares`] | each loss term's share of the gradient, in a table |
//! | [`table`] | teacher, student alone and student distilled in one table |
//! | [`backbone_table`] | a backbone that learned without labels in one line |
//! | [`cohort_table`] | networks that trained together in one table |
//! | [`draw`] | boxes on images, and pictures of several models side by side |

pub mod backbone_table;
pub mod cohort_table;
pub mod csv;
pub mod draw;
pub mod log;
pub mod page;
pub mod progress;
pub mod run_folder;
pub mod serve;
pub mod shares;
pub mod shown;
pub mod table;
pub mod tensorboard;
