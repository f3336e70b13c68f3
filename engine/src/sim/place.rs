//! Where a platform's ranks run when it spans hosts or network namespaces. Knows no process and no connection.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where the ranks of one node run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlace {
    /// Its ranks listen here for their peers.
    pub address: IpAddr,
    /// What stands before a worker's command, as `[ip, netns, exec, chariot-a]` or `[ssh, -T, node-b]`; absent: workers are children of the driver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launch: Vec<String>,
    /// The engine's path there; absent: the same as the driver's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// A field that is wrong: its path, what was expected, what was found.
pub(super) type Wrong = (String, &'static str, String);

/// Refuses places that no run could use. `driver`: where the driver listens; `nodes`: of the platform.
pub(super) fn check(places: &[NodePlace], driver: Option<IpAddr>, nodes: u32) -> Result<(), Wrong> {
    let wrong =
        |field: &str, expected, found: &dyn ToString| Err((field.to_owned(), expected, found.to_string()));
    let Some(driver) = driver else {
        return match places {
            [] => Ok(()),
            _ => {
                wrong("driver", "the address at which workers reach the driver, with runtime.places", &"none")
            }
        };
    };
    if places.len() != nodes as usize {
        let found = format!("{} for {nodes} nodes", places.len());
        return wrong("places", "one place a node, with runtime.driver", &found);
    }
    if driver.is_unspecified() || driver.is_multicast() {
        return wrong("driver", "an address of this host", &driver);
    }
    for (number, NodePlace { address, launch, program }) in places.iter().enumerate() {
        let field = |name: &str| format!("places[{number}].{name}");
        if address.is_unspecified() || address.is_multicast() {
            return wrong(&field("address"), "an address of the node", address);
        }
        if address.is_ipv4() != driver.is_ipv4() {
            return wrong(&field("address"), "an address of the same family as runtime.driver", address);
        }
        if launch.first().is_some_and(String::is_empty) {
            return wrong(&field("launch"), "a program first", &"an empty word");
        }
        if program.as_ref().is_some_and(String::is_empty) {
            return wrong(&field("program"), "a path", &"nothing");
        }
    }
    Ok(())
}
