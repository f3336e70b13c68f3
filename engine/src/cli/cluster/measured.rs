//! A cluster whose links were measured, as a platform file that can be kept, simulated and profiled.

use camino::Utf8Path;
use chariot_engine::sim::cluster::Cluster;
use chariot_engine::sim::hardware::{Fitted, MeasuredLink};

use super::yaml;

/// The file's text. `platform`: the file that the cluster was brought up from.
pub(super) fn text(platform: &Utf8Path, cluster: &Cluster) -> serde_json::Result<String> {
    let gpus = gpus(cluster);
    let what = match cluster.measured_links.is_empty() {
        true => "with no links to measure,",
        false => "with links measured",
    };
    let head = format!(
        "# {platform} {what} on {gpus}, by\n#   chariot-engine cluster --on cuda --platform {platform}\n\
         # All else is that file's; memory is no more than was free on each GPU.\n"
    );
    let comment = |name: &str| match cluster.measured_links.iter().find(|link| link.name == name) {
        Some(link) => format!("measured by chariot-engine cluster, {gpus}: {}", errors(link)),
        None => format!("not measured: {platform}'s"),
    };
    let comments: Vec<String> = cluster.preset.links.iter().map(|link| comment(&link.name)).collect();
    Ok(head + &yaml::platform_with(&cluster.preset, &comments)?)
}

/// How many of which.
fn gpus(cluster: &Cluster) -> String {
    let count = cluster.devices.len();
    let gpus = cluster.hardware.iter().flat_map(|hardware| &hardware.gpus);
    let mut names: Vec<&str> =
        gpus.filter(|gpu| gpu.free_bytes.is_some()).map(|gpu| gpu.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    format!("{count} GPU{} {}", if count == 1 { "" } else { "s" }, names.join(", "))
}

/// How far the lines are from what they lie through.
fn errors(link: &MeasuredLink) -> String {
    let kinds = [("all-reduce", &link.all_reduce), ("send/recv", &link.send_recv)];
    let kind = |(kind, fitted): (&str, &Option<Fitted>)| match fitted {
        Some(Fitted { error_median, error_max, .. }) => {
            let (median, worst) = (error_median * 100.0, error_max * 100.0);
            format!("{kind} off by {median:.1} % in the median, {worst:.1} % at worst")
        }
        None => format!("{kind} not measured"),
    };
    kinds.map(kind).join("; ")
}
