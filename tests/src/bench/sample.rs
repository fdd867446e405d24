//! One line of output.

use std::collections::BTreeMap;

use serde_json::json;

/// A measurement.
#[derive(Debug, Clone)]
pub struct Sample {
    pub cipher: &'static str,
    pub competitor: &'static str,
    pub load: &'static str,
    pub round: u32,
    /// What is compared.
    pub value: f64,
    /// What came along, by name with its unit.
    pub details: BTreeMap<&'static str, f64>,
}

impl Sample {
    /// Prints it, so that who reads the pipe sees it at once.
    pub fn print(&self) {
        let line = json!({
            "cipher": self.cipher,
            "competitor": self.competitor,
            "load": self.load,
            "round": self.round,
            "value": self.value,
            "details": self.details,
        });
        println!("{line}");
    }
}
