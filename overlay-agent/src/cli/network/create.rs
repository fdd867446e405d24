use std::{collections::BTreeMap, net::IpAddr};

use anyhow::anyhow;
use ipnet::IpNet;
use overlay_cluster::log::{
    names::NetworkName,
    networks::Network,
    rules::Rule,
    settings::check_mtu,
    subnet::{Subnet, SubnetRequest},
};
use overlay_ebpf::abi::Vni;

use super::{Context, Failure, Outcome, values};
use crate::api::network::{NetworkCreate, SubnetSpec};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the network
    name: NetworkName,
    /// Driver: `overlay` is the only one
    #[arg(short, long, default_value = "overlay", value_parser = driver)]
    driver: String,
    /// Option: `encrypted`, `mtu=BYTES`, `vni=NUMBER`, `replicate`, or docker's
    /// `com.docker.network.driver.mtu=BYTES`, `com.docker.network.driver.overlay.vxlanid_list=NUMBER`
    #[arg(short, long = "opt", value_name = "NAME[=VALUE]")]
    options: Vec<String>,
    /// Subnet: one, or one of IPv4 and one of IPv6 [default: one of the cluster's pools]
    #[arg(long = "subnet", value_name = "NET", value_parser = values::net)]
    subnets: Vec<IpNet>,
    /// Address that no endpoint gets [default: the first of the subnet]
    #[arg(long = "gateway", value_name = "ADDR", value_parser = values::address, requires = "subnets")]
    gateways: Vec<IpAddr>,
    /// Part of the subnet that addresses are given from
    #[arg(long = "ip-range", value_name = "NET", value_parser = values::net, requires = "subnets")]
    ranges: Vec<IpNet>,
    /// Let anyone who may use the agent of a node attach; with `false` only orchestrators, as with
    /// Docker's networks
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    attachable: bool,
    /// Label of the network
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
    /// Rule of who may attach: `node.KEY==VALUE`, `node.KEY!=VALUE`, `node.KEY`, `!node.KEY`, or
    /// `endpoint.…`
    #[arg(long = "constraint", value_name = "RULE")]
    rules: Vec<Rule>,

    // What docker takes and this does not: refused in words.
    #[arg(long, hide = true)]
    internal: bool,
    #[arg(long, hide = true)]
    ingress: bool,
    #[arg(long, hide = true)]
    ipv6: bool,
    #[arg(long, hide = true)]
    config_only: bool,
    #[arg(long, hide = true, value_name = "NETWORK")]
    config_from: Option<String>,
    #[arg(long, hide = true, value_name = "SCOPE")]
    scope: Option<String>,
    #[arg(long, hide = true, value_name = "DRIVER")]
    ipam_driver: Option<String>,
    #[arg(long, hide = true, value_name = "OPT")]
    ipam_opt: Vec<String>,
    #[arg(long, hide = true, value_name = "NAME=ADDR")]
    aux_address: Vec<String>,
}

fn driver(text: &str) -> Result<String, String> {
    match text {
        "overlay" => Ok(text.to_owned()),
        "bridge" | "host" | "ipvlan" | "macvlan" | "none" => Err(
            "not a driver of this program, which makes networks across hosts: use `docker network create`, or `overlay`".into(),
        ),
        _ => Err("not a driver: use `overlay`".into()),
    }
}

/// Why a flag of docker is refused, if one is.
fn unsupported(arguments: &Arguments) -> Option<String> {
    let refused = |flag: &str, why: &str| Some(format!("--{flag} is not supported: {why}"));
    if arguments.internal {
        return refused(
            "internal",
            "no network reaches outside by itself, so leave it out",
        );
    }
    if arguments.ingress {
        return refused("ingress", "there is no routing mesh, so leave it out");
    }
    if arguments.ipv6 && !arguments.subnets.iter().any(|net| net.addr().is_ipv6()) {
        return Some("--ipv6 has no IPv6 subnet: add one with --subnet".into());
    }
    if arguments.config_only || arguments.config_from.is_some() {
        return refused(
            "config-only and --config-from",
            "a network is the same on all nodes, so give its options here",
        );
    }
    match arguments.scope.as_deref() {
        None | Some("swarm" | "cluster" | "global") => {}
        Some(_) => {
            return refused(
                "scope",
                "a network is of the whole cluster, so leave it out",
            );
        }
    }
    if arguments
        .ipam_driver
        .as_ref()
        .is_some_and(|driver| driver != "default")
        || !arguments.ipam_opt.is_empty()
    {
        return refused(
            "ipam-driver and --ipam-opt",
            "nodes lease addresses from the managers, so leave them out",
        );
    }
    if !arguments.aux_address.is_empty() {
        return refused(
            "aux-address",
            "keep addresses free with an --ip-range that does not hold them",
        );
    }
    None
}

/// What `--opt` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    encrypted: bool,
    replicate: bool,
    mtu: Option<u32>,
    vni: Option<Vni>,
}

fn options(given: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut seen = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_str(), None),
        };
        let name = match name {
            "com.docker.network.driver.mtu" => "mtu",
            "com.docker.network.driver.overlay.vxlanid_list" => "vni",
            name => name,
        };
        if let Some(other) = seen.insert(name.to_owned(), text) {
            return Err(format!(
                "options `{other}` and `{text}` say the same thing: give one of them"
            ));
        }
        match name {
            // As docker has it, the name alone is enough.
            "encrypted" => options.encrypted = switch(name, value)?,
            "replicate" => options.replicate = switch(name, value)?,
            "mtu" => {
                let mtu = value.and_then(|value| value.parse().ok()).ok_or_else(|| {
                    format!("option `{text}` has no number of bytes: write {name}=1400")
                })?;
                options.mtu = Some(mtu);
            }
            "vni" => {
                let vni = value
                    .and_then(|value| value.parse::<u32>().ok())
                    .ok_or_else(|| {
                        format!("option `{text}` has not one number: write {name}=4097")
                    })?;
                let vni = Vni::new(vni).map_err(|error| format!("option `{text}`: {error}"))?;
                options.vni = Some(vni);
            }
            _ => {
                return Err(format!(
                    "option `{name}` is not known: use encrypted, replicate, mtu or vni"
                ));
            }
        }
    }
    Ok(options)
}

fn switch(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("" | "true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(value) => Err(format!(
            "option `{name}={value}` is neither true nor false: write {name} or {name}=false"
        )),
    }
}

/// Gives each subnet its gateway and range: those within it.
fn subnets(
    nets: &[IpNet],
    gateways: &[IpAddr],
    ranges: &[IpNet],
) -> Result<Vec<SubnetSpec>, Failure> {
    let mut specs: Vec<SubnetSpec> = nets
        .iter()
        .map(|net| SubnetSpec {
            subnet: *net,
            gateway: None,
            ip_range: None,
            block_prefix: None,
        })
        .collect();
    for gateway in gateways {
        let spec = specs
            .iter_mut()
            .find(|spec| spec.subnet.contains(gateway) && spec.gateway.is_none())
            .ok_or_else(|| {
                Failure::Input(anyhow!(
                    "gateway {gateway} is within no subnet, or the second of one: give each subnet at most one of its own addresses"
                ))
            })?;
        spec.gateway = Some(*gateway);
    }
    for range in ranges {
        let spec = specs
            .iter_mut()
            .find(|spec| spec.subnet.contains(range) && spec.ip_range.is_none())
            .ok_or_else(|| {
                Failure::Input(anyhow!(
                    "ip-range {range} is within no subnet, or the second of one: give each subnet at most one part of it"
                ))
            })?;
        spec.ip_range = Some(*range);
    }
    Ok(specs)
}

/// What the managers would refuse whatever their state is.
fn check(request: &NetworkCreate) -> Result<(), Failure> {
    let mut families = Vec::new();
    for spec in &request.subnets {
        let subnet = Subnet::new(&SubnetRequest::from(spec.clone())).map_err(Failure::input)?;
        if let Some(mtu) = request.mtu {
            check_mtu(mtu, subnet.family()).map_err(Failure::input)?;
        }
        if families.contains(&subnet.family()) {
            return Err(Failure::Input(anyhow!(
                "network {} has two subnets of one family: give one of IPv4, one of IPv6, or one of each",
                request.name
            )));
        }
        families.push(subnet.family());
    }
    if request.rules.len() > Network::MAX_RULES {
        return Err(Failure::Input(anyhow!(
            "{} constraints are more than {}: leave some out",
            request.rules.len(),
            Network::MAX_RULES
        )));
    }
    Ok(())
}

fn request(arguments: Arguments) -> Result<NetworkCreate, Failure> {
    if let Some(why) = unsupported(&arguments) {
        return Err(Failure::Input(anyhow!(why)));
    }
    let options = options(&arguments.options).map_err(|why| Failure::Input(anyhow!(why)))?;
    let request = NetworkCreate {
        name: arguments.name,
        vni: options.vni,
        encrypted: options.encrypted,
        attachable: arguments.attachable,
        replicate: options.replicate,
        mtu: options.mtu,
        subnets: subnets(&arguments.subnets, &arguments.gateways, &arguments.ranges)?,
        rules: arguments.rules,
        labels: values::labels(&arguments.labels)?,
    };
    check(&request)?;
    Ok(request)
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<Outcome, Failure> {
    let request = request(arguments)?;
    let network = context.client.create_network(&request).await?;
    context.terminal.line(network.name)?;
    Ok(Outcome::Good)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Create {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn create(line: &str) -> Result<NetworkCreate, String> {
        let line = std::iter::once("create").chain(line.split_whitespace());
        let create = Create::try_parse_from(line).map_err(|error| error.to_string())?;
        request(create.arguments).map_err(|failure| match failure {
            Failure::Input(error) | Failure::Host(error) => error.to_string(),
        })
    }

    #[test]
    fn the_command_of_the_reference_is_understood() {
        let made =
            create("--opt encrypted --driver overlay --subnet 10.0.9.0/24 my-multi-host-network")
                .unwrap();
        assert_eq!(made.name.as_str(), "my-multi-host-network");
        assert!(made.encrypted && made.attachable && !made.replicate);
        assert_eq!(made.subnets[0].subnet.to_string(), "10.0.9.0/24");
        assert_eq!((made.mtu, made.vni), (None, None));
    }

    #[test]
    fn options_have_docker_s_names_and_ours() {
        for (line, expected) in [
            ("-o encrypted=true n", (true, None, None)),
            ("-o encrypted= n", (true, None, None)),
            ("-o encrypted=false n", (false, None, None)),
            (
                "-o com.docker.network.driver.mtu=1400 n",
                (false, Some(1400), None),
            ),
            ("-o mtu=1400 -o vni=5000 n", (false, Some(1400), Some(5000))),
            (
                "-o com.docker.network.driver.overlay.vxlanid_list=5000 n",
                (false, None, Some(5000)),
            ),
        ] {
            let made = create(line).unwrap();
            let vni = made.vni.map(Vni::get);
            assert_eq!((made.encrypted, made.mtu, vni), expected, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (line, why) in [
            ("-o encrypted=maybe n", "neither true nor false"),
            ("-o mtu n", "mtu=1400"),
            ("-o mtu=x n", "mtu=1400"),
            ("-o mtu=10 --subnet 10.0.9.0/24 n", "MTU of 10"),
            ("-o vni=1,2 n", "vni=4097"),
            ("-o vni=1 n", "vni=1"),
            (
                "-o mtu=1400 -o com.docker.network.driver.mtu=1500 n",
                "the same thing",
            ),
            ("-o secure n", "`secure` is not known"),
            ("--driver bridge n", "docker network create"),
            ("--driver weave n", "use `overlay`"),
            ("--internal n", "reaches outside"),
            ("--ingress n", "routing mesh"),
            ("--ipv6 n", "--subnet"),
            ("--scope local n", "whole cluster"),
            ("--ipam-driver x n", "lease"),
            ("--aux-address a=10.0.9.5 n", "--ip-range"),
            ("--config-only n", "same on all nodes"),
            ("--subnet 10.0.9.1/24 n", "did you mean 10.0.9.0/24"),
            ("--subnet 10.0.9.0 n", "ADDRESS/PREFIX"),
            ("--subnet 169.254.1.0/24 n", "link-local"),
            ("--subnet 10.0.9.0/24 --subnet 10.0.8.0/24 n", "one family"),
            ("--subnet 10.0.9.0/24 --gateway 10.0.8.1 n", "10.0.8.1"),
            (
                "--subnet 10.0.9.0/24 --ip-range 10.0.8.0/25 n",
                "10.0.8.0/25",
            ),
            ("--gateway 10.0.8.1 n", "--subnet"),
            ("--constraint zone==a n", "node.KEY==VALUE"),
            ("--label =x n", "key of a label"),
            ("-n", "unexpected argument"),
            ("_n", "cannot name a network"),
        ] {
            let error = create(line).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn gateways_and_ranges_go_to_the_subnet_that_holds_them() {
        let made = create(
            "--subnet 10.0.9.0/24 --subnet fd00:9::/64 --gateway fd00:9::5 --gateway 10.0.9.9 --ip-range 10.0.9.128/25 n",
        )
        .unwrap();
        let text = |spec: &SubnetSpec| {
            let gateway = spec.gateway.map(|gateway| gateway.to_string());
            (gateway, spec.ip_range.map(|range| range.to_string()))
        };
        assert_eq!(
            text(&made.subnets[0]),
            (Some("10.0.9.9".into()), Some("10.0.9.128/25".into()))
        );
        assert_eq!(text(&made.subnets[1]), (Some("fd00:9::5".into()), None));
    }
}
