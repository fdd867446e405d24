//! What the verifier says of the programs.

use std::time::Instant;

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};

use super::{error::BpfError, hook::PROGRAMS};

/// Lines of the verifier's log that an error shows: it ends with the reason.
const LOG_LINES: usize = 40;

/// The cost of a program on the running kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramReport {
    /// Instructions that the verifier walked, over all paths; its limit is a million. `None` before
    /// kernel 5.16.
    pub verified_insns: Option<u32>,
    /// Size of the machine code, bytes; 0 without a JIT.
    pub jited_bytes: u32,
    /// Time of the load: verification and compilation.
    pub load_time_us: u64,
}

/// The verdict on a program.
#[derive(Debug)]
pub struct Verified {
    /// Name in [`overlay_ebpf::abi::program`].
    pub program: &'static str,
    /// [`BpfError::Verifier`] if the kernel refused it.
    pub outcome: Result<ProgramReport, BpfError>,
}

/// Loads every program of an object into the kernel, with the object's own map sizes, and unloads
/// it again. Nothing is pinned.
pub(super) fn verify(object: &[u8]) -> Result<Vec<Verified>, BpfError> {
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .load(object)
        .map_err(BpfError::Load)?;
    Ok(PROGRAMS
        .into_iter()
        .map(|name| Verified {
            program: name,
            outcome: load_program(&mut ebpf, name),
        })
        .collect())
}

/// Loads every program into the kernel.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    for name in PROGRAMS {
        load_program(ebpf, name)?;
    }
    Ok(())
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<ProgramReport, BpfError> {
    let program = ebpf.program_mut(name).ok_or(BpfError::Missing {
        kind: "program",
        name,
    })?;
    let start = Instant::now();
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    .map_err(|error| refused(name, error))?;
    let load_time_us = start.elapsed().as_micros() as u64;
    let info = program.info().map_err(|source| BpfError::Program {
        attempt: "look at",
        program: name,
        source,
    })?;
    Ok(ProgramReport {
        verified_insns: info.verified_instruction_count(),
        jited_bytes: info.size_jitted(),
        load_time_us,
    })
}

fn refused(program: &'static str, error: ProgramError) -> BpfError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => BpfError::Verifier {
            program,
            source: io_error,
            log: tail(&verifier_log.to_string()),
        },
        source => BpfError::Program {
            attempt: "load",
            program,
            source,
        },
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_log_is_kept() {
        let log: String = (0..100).map(|line| format!("{line}\n")).collect();
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), LOG_LINES);
        assert!(tail.starts_with("60\n") && tail.ends_with("99"));
    }
}
