use anyhow::anyhow;

use super::{Failure, Outcome};
use crate::kernel::host::Directories;

pub async fn run(_: &Directories) -> Result<Outcome, Failure> {
    Err(Failure::Host(anyhow!(
        "this `overlay` was built without its feature `aya-log`, which reads the logs: `cargo xtask \
         build --log` builds one that does, and programs that log"
    )))
}
