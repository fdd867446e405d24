use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_agent::daemon::command::main()
}
