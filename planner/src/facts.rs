//! Facts about the host that an action's key may depend on, by name. Knows nothing of actions.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// What is known by name, and what each says.
pub const NAMES: &[(&str, &str)] = &[
    ("arch", "processor architecture, e.g. x86_64"),
    ("cores", "number of processors this process may use"),
    ("cpu", "model name of the processor"),
    (
        "gpu",
        "version of the NVIDIA driver, model of every GPU and the variables that choose among them, or `none`",
    ),
    ("hostname", "name of the host"),
    ("kernel", "release of the operating system's kernel"),
    ("memory", "physical memory in bytes"),
    ("os", "operating system, e.g. linux"),
];

/// A fact was asked for that is not one.
#[derive(Debug, thiserror::Error)]
#[error("unknown fact `{name}`; expected one of {}{}", known(), help(name))]
pub struct UnknownFact {
    name: String,
}

fn known() -> String {
    NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn help(name: &str) -> String {
    let near = crate::graph::nearest(name, NAMES.iter().map(|(name, _)| *name));
    near.first().map_or_else(String::new, |near| format!("\n  help: did you mean `{near}`?"))
}

/// The facts of this host, each read when first asked for.
#[derive(Debug, Default)]
pub struct Facts {
    read: BTreeMap<&'static str, String>,
}

impl Facts {
    /// The value of a fact.
    pub fn get(&mut self, name: &str) -> Result<&str, UnknownFact> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let (name, _) = known.ok_or_else(|| UnknownFact { name: name.to_owned() })?;
        Ok(self.read.entry(name).or_insert_with(|| read(name)))
    }
}

/// The name of this host, for records.
pub fn hostname() -> String {
    read("hostname")
}

fn read(name: &str) -> String {
    match name {
        "arch" => std::env::consts::ARCH.to_owned(),
        "os" => std::env::consts::OS.to_owned(),
        "cores" => std::thread::available_parallelism().map_or(1, usize::from).to_string(),
        "cpu" => field("/proc/cpuinfo", "model name"),
        "gpu" => gpu(),
        "hostname" => line("/proc/sys/kernel/hostname"),
        "kernel" => line("/proc/sys/kernel/osrelease"),
        "memory" => memory(),
        _ => unreachable!("every name in NAMES is read here"),
    }
}

fn line(path: &str) -> String {
    fs_err::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> String {
    let text = fs_err::read_to_string(path).unwrap_or_default();
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory() -> String {
    let kib = field("/proc/meminfo", "MemTotal");
    let kib = kib.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    kib.map_or_else(|| "unknown".to_owned(), |kib| (kib * 1024).to_string())
}

/// Variables whose values are part of the fact `gpu`: which GPUs a process sees, and how they talk.
const CHOOSING: [&str; 2] = ["CUDA_", "NCCL_"];
/// Further ones that programs on GPUs need: where libraries lie, in an active Python environment too, where compiled kernels are kept, how long a
/// GPU is waited for, and what tests tell a double of CUDA.
const NEEDED: [&str; 7] = [
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "HOME",
    "XDG_CACHE_HOME",
    "CHARIOT_GPU_PATIENCE",
    "CHARIOT_DOUBLE_",
];

/// What of this process's environment an action with the fact `gpu` sees, too.
pub fn gpu_environment() -> BTreeMap<String, String> {
    variables(&CHOOSING).chain(variables(&NEEDED)).collect()
}

/// Variables whose names begin so.
fn variables(prefixes: &[&str]) -> impl Iterator<Item = (String, String)> {
    let is_wanted = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let utf8 =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(utf8).filter(move |(name, _)| is_wanted(name))
}

fn gpu() -> String {
    let chosen: BTreeMap<String, String> = variables(&CHOOSING).collect();
    let chosen = chosen.iter().map(|(name, value)| format!("; {name}={value}"));
    let cards = cards_of_driver().or_else(cards_of_nvidia_smi).unwrap_or_else(|| "none".to_owned());
    std::iter::once(cards).chain(chosen).collect()
}

/// Where the driver's files cannot be seen, as in some containers, its own tool may tell.
fn cards_of_nvidia_smi() -> Option<String> {
    let query = ["--query-gpu=driver_version,name", "--format=csv,noheader"];
    let output = std::process::Command::new("nvidia-smi").args(query).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().replace('\n', "; "))
}

fn cards_of_driver() -> Option<String> {
    let entries = fs_err::read_dir("/proc/driver/nvidia/gpus").ok()?;
    let mut models: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("information")))
        .filter_map(|path| Some(field(path.to_str()?, "Model")))
        .collect();
    models.sort();
    let version = line("/proc/driver/nvidia/version");
    let driver = version.lines().next().unwrap_or("unknown");
    Some(format!("{driver}; {}", models.join(", ")))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_name_has_a_value_that_stays() {
        for (name, _) in NAMES {
            let mut facts = Facts::default();
            let first = facts.get(name).unwrap().to_owned();
            assert!(!first.is_empty(), "{name}");
            assert_eq!(facts.get(name).unwrap(), first);
        }
    }

    #[test]
    fn an_unknown_fact_is_answered_with_a_near_one() {
        expect![[r#"
            unknown fact `host-name`; expected one of arch, cores, cpu, gpu, hostname, kernel, memory, os
              help: did you mean `hostname`?"#]]
        .assert_eq(&Facts::default().get("host-name").unwrap_err().to_string());
    }
}
