//! Which launcher started a process.

use ckd_collective::Launcher;
use ckd_collective::launcher::Family;

fn told(variables: &[(&str, &str)]) -> Option<Launcher> {
    Launcher::told_by(|name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn each_launcher_is_known_by_its_variables() {
    let open = told(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "2"), ("PMIX_RANK", "2")]);
    let open = open.unwrap();
    assert_eq!((open.size, open.rank, open.family), (Some(4), Some(2), Some(Family::OpenMpi)));
    let hydra = told(&[("PMI_SIZE", "2"), ("PMI_RANK", "1")]).unwrap();
    assert_eq!((hydra.size, hydra.rank, hydra.family), (Some(2), Some(1), Some(Family::Mpich)));
    let slurm =
        told(&[("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_PROCID", "7"), ("PMI_SIZE", "8"), ("PMI_RANK", "7")]);
    assert_eq!(slurm.unwrap().family, None, "srun starts programs of any MPI");
    let pmix = told(&[("PMIX_RANK", "0")]).unwrap();
    assert_eq!((pmix.size, pmix.rank), (None, Some(0)));
    assert!(pmix.starts_several(), "nobody said that there is one only");
}

#[test]
fn a_program_that_a_user_or_a_batch_script_started_is_alone() {
    assert_eq!(told(&[]), None);
    // Slurm sets these in the script, too, outside of any `srun`.
    assert_eq!(told(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_JOB_ID", "1")]), None);
    assert_eq!(told(&[("OMPI_COMM_WORLD_SIZE", "many")]), None);
    assert!(!told(&[("PMI_SIZE", "1"), ("PMI_RANK", "0")]).unwrap().starts_several());
}
