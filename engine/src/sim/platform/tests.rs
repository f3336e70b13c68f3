use super::*;
use crate::sim::coefficient::Band;

fn preset(name: &str) -> String {
    let path = format!("{}/../pipelines/platforms/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    fs_err::read_to_string(path).unwrap()
}

fn azure() -> Platform {
    serde_saphyr::from_str(&preset("azure-nc96ads-a100-v4-x2")).unwrap()
}

#[test]
fn presets_are_valid() {
    for name in ["azure-nc96ads-a100-v4-x2", "constant-x8"] {
        let platform: Platform = serde_saphyr::from_str(&preset(name)).unwrap();
        assert_eq!((platform.validate(), platform.name.as_str()), (Ok(()), name));
    }
}

#[test]
fn a_group_uses_the_nearest_link_that_joins_it_all() {
    let platform = azure();
    let name = |devices: &[u32]| platform.link(devices).name.clone();
    assert_eq!(name(&[0, 1]), "nvlink_pair");
    assert_eq!(name(&[1, 2]), "pcie_node");
    assert_eq!(name(&[4, 5, 6, 7]), "pcie_node");
    assert_eq!(name(&[3, 4]), "ethernet");
    assert_eq!(name(&[0, 1, 2, 3, 4, 5, 6, 7]), "ethernet");
    assert_eq!(name(&[5]), "nvlink_pair");
}

#[test]
fn only_the_cross_node_all_reduce_is_uncertain() {
    let uncertain: Vec<String> = (azure().coefficients().into_iter())
        .filter(|(_, c, _)| c.at(Band::Low) != c.at(Band::High))
        .map(|(field, ..)| field)
        .collect();
    assert_eq!(uncertain, ["links.ethernet.all_reduce.alpha_us", "links.ethernet.all_reduce.ring_gbps"]);
}

#[test]
fn a_platform_survives_json() {
    let json = serde_json::to_string(&azure()).unwrap();
    assert_eq!(serde_json::from_str::<Platform>(&json).unwrap(), azure());
}

fn check(from: &str, to: &str, expected: &str) {
    let text = preset("azure-nc96ads-a100-v4-x2");
    assert!(text.contains(from), "{from} is not in the preset");
    let found = match serde_saphyr::from_str::<Platform>(&text.replacen(from, to, 1)) {
        Ok(platform) => platform.validate().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(found.contains(expected), "expected `{expected}` in: {found}");
}

#[test]
fn mistakes_name_the_field_and_what_it_should_be() {
    check("nodes: 2", "nodes: 0", "nodes: expected a count from 1 to 65536, found 0");
    check("nodes: 2", "nodes: 3", "expected the last class to span all 12 devices, found 8");
    check(
        "span: 4",
        "span: 2",
        "links.pcie_node.span: expected more than the 2 of the class before it, found 2",
    );
    check("low: 118,", "low: 900,", "links.ethernet.all_reduce.alpha_us: expected low <= central <= high");
    check("low: 6,", "low: 1,", "links.ethernet.all_reduce.ring_gbps: expected low >= central >= high");
    check(
        "peak_tflops: 227",
        "peak_tflops: 0",
        "stage.kernels.gemm.peak_tflops: expected a rate above 0, found 0",
    );
    check("high: 840", "hihg: 840", "hihg");
    check("nodes: 2", "nodes: 2\nnode: 1", "node");
    check("nodes: 2", "nodes: 2\nnodes: 2", "duplicate");
    check("t0_us: 8.0", "t0_us: fast", "expected a number or {low, central, high}");
}

/// `runtime` of a platform of two nodes.
fn check_runtime(runtime: &str, expected: &str) {
    let (from, text) = ("runtime: {threads: 1, transport: shared_memory}", preset("cpu-2x4"));
    assert!(text.contains(from));
    let found = match serde_saphyr::from_str::<Platform>(&text.replace(from, &format!("runtime: {runtime}")))
    {
        Ok(platform) => platform.validate().map_or_else(|error| error.to_string(), |()| "valid".to_owned()),
        Err(error) => error.to_string(),
    };
    assert!(found.contains(expected), "{runtime}: expected `{expected}` in: {found}");
}

#[test]
fn a_limit_of_slowed_checks_is_a_share() {
    let with = |more: &str| format!("{{threads: 1, transport: shared_memory, {more}}}");
    check_runtime(&with("slowed_max: 0.03"), "valid");
    check_runtime(&with("slowed_max: 0"), "valid");
    for wrong in ["1", "-0.1", "3", ".nan"] {
        let expected = "runtime.slowed_max: expected a share from 0 to below 1, found";
        check_runtime(&with(&format!("slowed_max: {wrong}")), expected);
    }
    check_runtime(
        &with("backend: cuda, slowed_max: 0.03"),
        "runtime.slowed_max: expected none with backend cuda, found 0.03",
    );
}

#[test]
fn places_that_no_run_could_use_are_refused() {
    let tcp = |more: &str| format!("{{threads: 1, transport: tcp, {more}}}");
    let both = "{address: 10.0.0.1}, {address: 10.0.0.2, launch: [ssh, -T, b], program: /opt/engine}";
    let places = |places: &str| tcp(&format!("driver: 10.0.0.1, places: [{places}]"));
    check_runtime(&places(both), "valid");
    check_runtime(
        &tcp("driver: 10.0.0.1"),
        "runtime.places: expected one place a node, with runtime.driver, found 0 for 2",
    );
    check_runtime(
        &tcp(&format!("places: [{both}]")),
        "runtime.driver: expected the address at which workers reach",
    );
    check_runtime(
        &places("{address: 10.0.0.1}"),
        "runtime.places: expected one place a node, with runtime.driver, found 1 for 2",
    );
    check_runtime(&places("{address: 10.0.0.1}, {address: node-b}"), "invalid IP address");
    check_runtime(
        &places("{address: 10.0.0.1}, {address: 0.0.0.0}"),
        "runtime.places[1].address: expected an address of the node",
    );
    check_runtime(
        &places("{address: 10.0.0.1}, {address: \"fd00::1\"}"),
        "places[1].address: expected an address of the same family",
    );
    check_runtime(
        &places("{address: 10.0.0.1}, {address: 10.0.0.2, launch: [\"\"]}"),
        "runtime.places[1].launch: expected a program",
    );
    check_runtime(&places("{address: 10.0.0.1}, {address: 10.0.0.2, lunch: []}"), "lunch");
    check_runtime(
        &places(both).replace("tcp", "shared_memory"),
        "runtime.transport: expected tcp with runtime.places",
    );
    let emulated =
        tcp(&format!("driver: 10.0.0.1, places: [{both}], emulate: {{time_scale: 1, bytes_per_value: 2}}"));
    check_runtime(&emulated, "runtime.emulate: expected none with runtime.places");
}
