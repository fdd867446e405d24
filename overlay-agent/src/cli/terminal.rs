//! Where a command writes and what it may ask.

use std::{
    fmt,
    io::{self, BufRead, IsTerminal as _, Write},
};

use anyhow::anyhow;
use zeroize::Zeroizing;

use super::Failure;

/// Longest secret that is read: of a backup key, with room to spare.
const SECRET_BYTES: u64 = 4096;

/// Standard output, error and input of a command.
pub struct Terminal {
    pub out: Box<dyn Write>,
    pub err: Box<dyn Write>,
    input: Box<dyn BufRead>,
    /// Whether somebody is there to answer.
    interactive: bool,
}

impl Terminal {
    /// Those of this process.
    pub fn standard() -> Self {
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            input: Box::new(io::BufReader::new(io::stdin())),
            interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// For tests: `input` is what somebody types.
    #[cfg(test)]
    pub fn scripted(
        out: impl Write + 'static,
        err: impl Write + 'static,
        input: &'static str,
        interactive: bool,
    ) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(err),
            input: Box::new(input.as_bytes()),
            interactive,
        }
    }

    /// Writes to standard output.
    pub fn print(&mut self, text: impl fmt::Display) -> io::Result<()> {
        write!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes a line to standard output.
    pub fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes a line to standard error.
    pub fn note(&mut self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(self.err, "{text}")
    }

    /// Asks before something that cannot be undone. Without a terminal only `yes` lets it pass.
    pub fn confirm(&mut self, yes: bool, warning: &str) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !self.interactive {
            return Err(Failure::Input(anyhow!(
                "nothing done: {warning} Say --yes if that is meant"
            )));
        }
        write!(
            self.err,
            "WARNING! {warning}\nAre you sure you want to continue? [y/N] "
        )?;
        self.err.flush()?;
        let mut answer = String::new();
        self.input.read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Failure::Host(anyhow!("nothing done")))
        }
    }

    /// Reads a secret from standard input: one line, which a terminal does not show.
    pub fn secret(&mut self, prompt: &str) -> Result<Zeroizing<String>, Failure> {
        let mut text = if self.interactive && io::stdin().is_terminal() {
            Zeroizing::new(rpassword::prompt_password(format!("{prompt}: "))?)
        } else {
            let mut text = Zeroizing::new(String::with_capacity(256));
            io::Read::take(&mut self.input, SECRET_BYTES).read_line(&mut text)?;
            text
        };
        let end = text.trim_end().len();
        text.truncate(end);
        if text.is_empty() {
            return Err(Failure::Input(anyhow!(
                "nothing came on standard input: pipe the secret to it, or name a file"
            )));
        }
        Ok(text)
    }
}
