//! Detects the launcher that started this process as one of several: `mpirun`, `mpiexec`, `srun`.

/// Family of MPI implementations that share launcher and ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Open MPI.
    OpenMpi,
    /// MPICH, and what is derived from it: Intel MPI, MVAPICH.
    Mpich,
}

/// The launcher of this process, as its environment variables tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// Name for messages, with the variable that told.
    pub name: String,
    /// Processes that it started; `None` where it does not say.
    pub size: Option<usize>,
    /// Number of this process; `None` where it does not say.
    pub rank: Option<usize>,
    /// Family of the MPI that it belongs to; `None` for Slurm, which starts any.
    pub family: Option<Family>,
}

/// Variables of a launcher: its name, size, rank, family. The first that is there decides.
const KNOWN: [(&str, &str, &str, Option<Family>); 5] = [
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", Some(Family::OpenMpi)),
    ("MVAPICH's mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", Some(Family::Mpich)),
    // Slurm speaks PMI too, and then starts any MPI: its own variables come first. A step's: a batch script has the others.
    ("Slurm's srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", None),
    ("the mpiexec of MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK", Some(Family::Mpich)),
    ("a PMIx launcher", "PMIX_SIZE", "PMIX_RANK", None),
];

impl Launcher {
    /// The launcher of this process; `None` if a user started it.
    pub fn of_this_process() -> Option<Self> {
        Self::told_by(|name| std::env::var(name).ok())
    }

    /// The launcher that `variable` tells of.
    ///
    /// ```
    /// use ckd_collective::Launcher;
    ///
    /// let set = |name: &str| (name == "PMI_SIZE").then(|| "4".to_owned());
    /// assert_eq!(Launcher::told_by(set).unwrap().size, Some(4));
    /// assert_eq!(Launcher::told_by(|_| None), None);
    /// ```
    pub fn told_by(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name).and_then(|value| value.trim().parse().ok());
        KNOWN.into_iter().find_map(|(name, size, rank, family)| {
            let (told_size, told_rank) = (number(size), number(rank));
            // A rank alone tells, too: PMIx has no variable of the size.
            let by = if told_size.is_some() { size } else { rank };
            let is_there = told_size.is_some() || (told_rank.is_some() && rank.starts_with("PMI"));
            is_there.then(|| Self {
                name: format!("{name} ({by})"),
                size: told_size,
                rank: told_rank,
                family,
            })
        })
    }

    /// Whether this process is one of several, or may be.
    pub fn starts_several(&self) -> bool {
        self.size != Some(1)
    }
}
