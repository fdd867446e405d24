//! Kernel modules that go, or are not there: encrypted networks stay closed, say why, and open once
//! the modules are back. Only for the test VM: modules belong to a whole machine.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    hostile::{Siege, damage, stays_encrypted},
    lab::{Applied, Family, command, eventually, in_test_vm},
};

const WITHHELD: &str = "/etc/modprobe.d/overlay-test-withheld.conf";

/// Modules that the kernel does not get, by name or by alias, until dropped.
struct Withheld;

impl Withheld {
    fn new(modules: &[&str]) -> Result<Self> {
        in_vm()?;
        let lines: Vec<String> = modules
            .iter()
            .map(|module| format!("install {module} /bin/false\n"))
            .collect();
        fs::create_dir_all("/etc/modprobe.d")?;
        fs::write(WITHHELD, lines.concat()).with_context(|| format!("write {WITHHELD}"))?;
        let withheld = Self;
        for module in modules {
            unload_when_released(module)?;
        }
        Ok(withheld)
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        let _gone = fs::remove_file(WITHHELD);
    }
}

fn in_vm() -> Result<()> {
    ensure!(
        in_test_vm()?,
        "this test unloads kernel modules: run it by `cargo xtask test vm_modules`, in the VM"
    );
    Ok(())
}

fn is_loaded(module: &str) -> bool {
    fs::exists(format!("/sys/module/{module}")).unwrap_or(false)
}

/// Unloads a module if it is loaded.
fn unload(module: &str) -> Result<()> {
    if is_loaded(module) {
        command::shell("rmmod", module)?;
    }
    Ok(())
}

/// As [`unload`], once the work queues have released what used it.
fn unload_when_released(module: &str) -> Result<()> {
    eventually(Duration::from_secs(30), || unload(module))
}

fn says_why(applied: &Applied) -> Result<()> {
    ensure!(
        applied.status == 1
            && applied.stderr.contains(
                "network blue (VNI 4096): closed: it is encrypted and this kernel cannot do IPsec"
            )
            && applied.stderr.contains("remedy: ")
            && applied.stderr.contains("esp4"),
        "{applied:?}"
    );
    Ok(())
}

#[test]
fn without_esp_the_network_stays_closed_and_says_why() -> Result<()> {
    in_vm()?;
    for missing in [
        &["esp4_offload", "esp4"][..],
        &["esp6_offload", "esp6"],
        &["xfrm_interface"],
    ] {
        let withheld = Withheld::new(missing)?;
        let mut siege = Siege::prepare(Family::V4)?;
        let capture = siege.lab.capture()?;
        for node in &siege.lab.nodes {
            says_why(&node.try_apply(&siege.lab.keyring)?).with_context(|| missing.join(", "))?;
        }
        // The containers have their interfaces and keep sending.
        std::thread::sleep(Duration::from_secs(2));
        let wire = siege.stop(capture)?;
        stays_encrypted(&wire)?;
        ensure!(
            wire.esp() == 0 && siege.pressure.arrived() == 0,
            "it is open"
        );

        drop(withheld);
        siege.strike("the modules are back", |siege| {
            siege.strikes(2);
            Ok(())
        });
        siege.lift()?;
    }
    Ok(())
}

#[test]
fn unloading_modules_under_traffic_opens_nothing_and_is_repaired() -> Result<()> {
    in_vm()?;
    let mut siege = Siege::lay(Family::V4)?;
    for module in ["xfrm_interface", "vxlan"] {
        siege.strike(module, |siege| {
            siege.strikes(2);
            ensure!(is_loaded(module), "{module} is not loaded");
            unload(module)
        });
    }
    siege.strike("ESP in use", |_| {
        for module in ["esp4_offload", "esp4"] {
            ensure!(is_loaded(module), "{module} is not loaded");
            ensure!(unload(module).is_err(), "the SAs do not hold {module}");
        }
        Ok(())
    });
    siege.lift()
}

#[test]
fn esp_that_goes_under_traffic_closes_the_network() -> Result<()> {
    let mut siege = Siege::lay(Family::V4)?;
    let capture = siege.lab.capture()?;
    for node in &siege.lab.nodes {
        damage::flush_states(node)?;
    }
    let withheld = Withheld::new(&["esp4_offload", "esp4"])?;
    for node in &siege.lab.nodes {
        says_why(&node.try_apply(&siege.lab.keyring)?)?;
    }
    let before = siege.pressure.arrived();
    std::thread::sleep(Duration::from_secs(2));
    stays_encrypted(&siege.stop(capture)?)?;
    ensure!(siege.pressure.arrived() == before, "it is open");

    drop(withheld);
    siege.strike("ESP is back", Siege::rekey);
    siege.lift()
}
