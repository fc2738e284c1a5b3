//! The arguments of `vswitchctl`, with the help that each command prints.
//!
//! `-h` is the short form; `--help` adds what a first-time user asks next, with examples that can be pasted.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use switch_core::addr::MacAddr;

use super::client::DEFAULT_SOCKET;
use super::complete;
use super::output::Format;
use super::units::{parse_duration, parse_since};

/// See and change a running vswitchd: a virtual switch for VMs, containers and namespaces.
#[derive(Debug, Parser)]
#[command(
    name = "vswitchctl",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_long_help = "\
Examples:
  vswitchctl apply -f switch.yaml          put a configuration in force
  vswitchctl show                          the whole switch as a tree
  vswitchctl port stats                    counters of all ports
  vswitchctl trace vm1 ping 10.0.0.2 to vm2
                                           what would happen to this frame, and why
  vswitchctl capture vm1 -w - | wireshark -k -i -
  vswitchctl -o json mac list | jq -r '.[].mac'

Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub(crate) struct Args {
    /// Unix socket of the daemon.
    #[arg(long, global = true, help_heading = "Global options", value_name = "PATH", env = "VSWITCH_SOCKET", default_value = DEFAULT_SOCKET, hide_env_values = true, value_hint = ValueHint::FilePath)]
    pub(crate) socket: PathBuf,

    /// Form of the output: a table for people; json or yaml, stable, for programs.
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FORM",
        default_value = "table",
        hide_possible_values = true
    )]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put a configuration in force, whole or not at all.
    Apply(ApplyArgs),
    /// Keep a configuration that was applied with `--confirm`.
    Confirm,
    /// Say what a configuration would change, and change nothing.
    Diff(DiffArgs),
    /// Print the configuration in force, in the file's own form.
    ///
    /// What it prints can be applied again: `vswitchctl config > switch.yaml`.
    Config {
        /// An older generation of the history instead.
        #[arg(long, value_name = "N")]
        generation: Option<u64>,
    },
    /// List the configurations that were in force, newest first.
    ///
    /// `*` marks the one in force, `?` one that is in force and waits for `vswitchctl confirm`.
    History,
    /// Go back to an earlier configuration.
    ///
    /// Without a number: to the one before the current. Going back makes a new generation, so that it can itself be undone.
    #[command(after_long_help = "\
Examples:
  vswitchctl history
  vswitchctl rollback            undo the last change
  vswitchctl rollback 3          the configuration of generation 3 again")]
    Rollback {
        /// Generation as `history` lists it.
        #[arg(value_name = "GENERATION")]
        generation: Option<u64>,
    },
    /// Check a configuration file, without a daemon.
    ///
    /// Lists every error with its place. Devices need not exist for this.
    Validate {
        /// The file; `-` reads standard input.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print the whole switch as a tree: groups, ports, states.
    Show,
    /// See and change ports.
    Port {
        #[command(subcommand)]
        command: PortCommand,
    },
    /// See port groups.
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// See the uplinks: the devices by which the switches reach the network outside.
    Uplink {
        #[command(subcommand)]
        command: UplinkCommand,
    },
    /// See how the ports of each group share the uplinks.
    Team {
        #[command(subcommand)]
        command: TeamCommand,
    },
    /// See and change the MAC table.
    Mac {
        #[command(subcommand)]
        command: MacCommand,
    },
    /// Say what would happen to a frame, step by step, and why; nothing is sent or learnt.
    Trace(TraceArgs),
    /// Watch frames, or write them as pcapng for Wireshark and tshark.
    Capture(CaptureArgs),
    /// List what happened: applies, ports going up and down, addresses that moved.
    Events {
        /// Go on with each event as it happens, until Ctrl-C.
        #[arg(short, long)]
        follow: bool,
        /// Only events of the last so long (5m, 1h), or after a time such as 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = parse_since)]
        since: Option<String>,
    },
    /// Watch the rates of all ports, live.
    Top(TopArgs),
    /// Print a script of completions for a shell; names of ports and groups are completed as well.
    #[command(after_long_help = "\
Examples:
  echo 'source <(vswitchctl completions bash)' >> ~/.bashrc
  echo 'source <(vswitchctl completions zsh)' >> ~/.zshrc
  echo 'vswitchctl completions fish | source' >> ~/.config/fish/config.fish")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the JSON Schema of the configuration file, for editors; without a daemon.
    #[command(after_long_help = "\
Editors with a YAML language server check and complete the file when its first
line names the schema:
  vswitchctl schema > switch.schema.json
  # yaml-language-server: $schema=switch.schema.json")]
    Schema,
    /// Print the versions of this command and of the daemon.
    Version,
}

#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
Nothing changes unless the whole file is right. Ports that the file leaves
alone go on undisturbed; what the switch has learnt and counted survives.

Examples:
  vswitchctl apply -f switch.yaml
  vswitchctl apply -f switch.yaml --dry-run        what would change
  vswitchctl apply -f switch.yaml --confirm 30s    goes back by itself, unless
                                                   `vswitchctl confirm` follows
  sed 's/vlan: 100/vlan: 200/' switch.yaml | vswitchctl apply -f -")]
pub(crate) struct ApplyArgs {
    /// The configuration; `-` reads standard input.
    #[arg(short, long, value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Say what would change, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Go back to the configuration before, unless `vswitchctl confirm` comes within this time.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "dry_run")]
    pub(crate) confirm: Option<Duration>,
    /// A word for the history; default: the command.
    #[arg(short = 'm', long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
}

#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
Examples:
  vswitchctl diff -f switch.yaml
  vswitchctl diff -f switch.yaml --exit-code && echo up to date")]
pub(crate) struct DiffArgs {
    /// The configuration; `-` reads standard input.
    #[arg(short, long, value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Exit with 1 where anything differs.
    #[arg(long)]
    pub(crate) exit_code: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// List all ports.
    #[command(visible_alias = "ls")]
    List,
    /// Show one port: its state, the settings in force, its counters.
    Show {
        /// Name of the port.
        #[arg(add = complete::ports())]
        name: String,
    },
    /// Add a port to the configuration in force.
    #[command(after_long_help = "\
Examples:
  vswitchctl port add vm4 --group web --tap vm4 --mac 52:54:00:00:00:04
  vswitchctl port add vm5 --group web --device vnet5
  vswitchctl port add vm6 --group web --stream /run/vswitch/vm6.sock
  vswitchctl port add vm7 --group web --vhost-user /run/vswitch/vm7.sock
  vswitchctl port add c1 --group web --tap eth0 --netns c1
  vswitchctl port add fw --group web --tap fw --vlan '{trunk: [100, 200-299], native: 1}'
  vswitchctl port add probe --group web --tap probe --set security.promiscuous=accept")]
    Add(PortAddArgs),
    /// Change settings of a port in the configuration in force.
    #[command(after_long_help = "\
A key is written as in the file, nested keys with dots; its value is YAML.
`KEY=` without a value removes the key, so that the group's setting holds again.

Examples:
  vswitchctl port set vm1 port-group=db
  vswitchctl port set vm1 security.promiscuous=accept
  vswitchctl port set vm1 'vlan={trunk: [100, 200], native: 1}'
  vswitchctl port set vm1 vlan=                  back to the group's VLAN
  vswitchctl port set vm1 --unset vlan           the same")]
    Set {
        /// Name of the port.
        #[arg(add = complete::ports())]
        name: String,
        /// Keys and their new values.
        #[arg(value_name = "KEY=VALUE", required_unless_present = "unset")]
        settings: Vec<String>,
        /// Remove a key.
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
    },
    /// Remove a port from the configuration in force.
    #[command(visible_alias = "rm")]
    Del {
        /// Name of the port.
        #[arg(add = complete::ports())]
        name: String,
    },
    /// Print what of a port goes with its guest to another host, as a JSON document.
    #[command(after_long_help = "\
Examples:
  vswitchctl port export vm1 > vm1.json
  vswitchctl port export vm1 | ssh other-host vswitchctl port import vm1 -f -")]
    Export {
        /// Name of the port.
        #[arg(add = complete::ports())]
        name: String,
    },
    /// Take over the state of a port from another host: its counters, and the addresses behind it.
    ///
    /// May be done before the guest arrives, and again afterwards with a newer document. The addresses are announced when the port carries frames.
    Import {
        /// Name of the port here.
        #[arg(add = complete::ports())]
        name: String,
        /// The document; `-` reads standard input.
        #[arg(short, long, value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print counters of all ports, or of one with the reasons of its drops.
    ///
    /// Receive is from the port into the switch, transmit from the switch to the port. A super-frame counts as the frames
    /// that it becomes on the wire.
    Stats {
        /// Name of the port.
        #[arg(add = complete::ports())]
        name: Option<String>,
        /// Scale large numbers: 1.2M instead of 1234567.
        #[arg(short = 'H', long)]
        human: bool,
    },
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["tap", "device", "vhost_user", "stream"]))]
pub(crate) struct PortAddArgs {
    /// Name of the new port.
    pub(crate) name: String,
    /// Its port group.
    #[arg(short, long, value_name = "GROUP", add = complete::groups())]
    pub(crate) group: String,
    /// Let the switch make a TAP of this name.
    #[arg(long, value_name = "DEV")]
    pub(crate) tap: Option<String>,
    /// Attach this netdev: a VM's TAP, a veth, a NIC.
    #[arg(long, value_name = "DEV")]
    pub(crate) device: Option<String>,
    /// Share memory with a VM by this socket of its hypervisor.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) vhost_user: Option<String>,
    /// Exchange frames by this stream socket: QEMU's `-netdev stream`, passt.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) stream: Option<String>,
    /// Who listens on the socket: the switch (server) or the other side (client).
    #[arg(long, conflicts_with_all = ["tap", "device"])]
    pub(crate) mode: Option<SocketModeArg>,
    /// The most pairs of queues that the VM may use.
    #[arg(long, value_name = "N", requires = "vhost_user")]
    pub(crate) queues: Option<u16>,
    /// Make the TAP in this network namespace.
    #[arg(long, value_name = "NAME", requires = "tap")]
    pub(crate) netns: Option<String>,
    /// MAC address of its guest.
    #[arg(long)]
    pub(crate) mac: Option<MacAddr>,
    /// Its own VLAN policy instead of the group's, as in the file: 100, or '{trunk: [100, 200-299]}'.
    #[arg(long)]
    pub(crate) vlan: Option<String>,
    /// The switch; needed only where there are several.
    #[arg(long)]
    pub(crate) switch: Option<String>,
    /// Any other key of a port, as in the file.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Who listens on the socket of a new port.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SocketModeArg {
    /// The other side.
    Client,
    /// The switch.
    Server,
}

impl SocketModeArg {
    /// The word of the file.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List all port groups.
    #[command(visible_alias = "ls")]
    List,
    /// Show one port group: its settings and its ports.
    Show {
        /// Name of the group.
        #[arg(add = complete::groups())]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UplinkCommand {
    /// List all uplinks.
    #[command(visible_alias = "ls")]
    List,
    /// Show one uplink: its state, its settings and its counters.
    Show {
        /// Name of the uplink.
        #[arg(add = complete::uplinks())]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TeamCommand {
    /// List the teams, one for each port group of a switch with uplinks.
    #[command(visible_alias = "ls")]
    List,
    /// Show which uplinks the ports of a group use.
    Show {
        /// Name of the port group.
        #[arg(add = complete::groups())]
        group: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MacCommand {
    /// List the MAC table: who is behind which port.
    #[command(visible_alias = "ls")]
    List {
        /// Only entries of this port.
        #[arg(long, add = complete::ports())]
        port: Option<String>,
        /// Only entries of this VLAN.
        #[arg(long, value_name = "N")]
        vlan: Option<u16>,
    },
    /// Add a static entry to the configuration in force.
    #[command(after_long_help = "\
A static entry never ages and never moves; a frame with its address from
another port is dropped.

Examples:
  vswitchctl mac add vm1 52:54:00:00:00:01
  vswitchctl mac add fw 52:54:00:00:00:fe --vlan 200")]
    Add(MacArgs),
    /// Remove a static entry from the configuration in force.
    #[command(visible_alias = "rm")]
    Del(MacArgs),
    /// Forget learnt entries; static ones stay.
    Flush {
        /// Only entries of this port.
        #[arg(long, add = complete::ports())]
        port: Option<String>,
        /// Only entries of this VLAN.
        #[arg(long, value_name = "N")]
        vlan: Option<u16>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct MacArgs {
    /// The port that it is behind.
    #[arg(add = complete::ports())]
    pub(crate) port: String,
    /// The address.
    pub(crate) mac: MacAddr,
    /// Its VLAN; default: the port's own.
    #[arg(long, value_name = "N")]
    pub(crate) vlan: Option<u16>,
}

#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
The frame is given in one of three ways:
  hex          its octets from the destination address on; spaces, colons and
               dashes don't matter
  @FILE[:N]    packet N (default 1) of a pcap or pcapng file
  words        see below

Words:
  arp who-has IP       an ARP request
  arp reply IP         an ARP reply: IP is at the source
  nd who-has IP        a neighbour solicitation
  rarp                 what QEMU sends when a guest has moved
  ping IP              an ICMP or ICMPv6 echo request; ping6 takes IPv6 only
  udp IP:PORT          a UDP datagram; IPv6 as [IP]:PORT
  tcp IP:PORT          a TCP SYN
  ether TYPE           a frame of this EtherType, such as 0x88cc

and then, in any order:
  from MAC|IP|MAC/IP   its source; default: MAC and address of the port, as far
                       as the switch knows them
  to MAC|PORT          its destination; needed where the protocol does not say
                       it, as broadcast or multicast
  vlan N               an 802.1Q tag; twice for two, the outer first
  len N                length of the whole frame, octets

Examples:
  vswitchctl trace vm1 arp who-has 10.0.0.2
  vswitchctl trace vm1 ping 10.0.0.2 to vm2
  vswitchctl trace vm1 udp 10.0.0.2:53 from 52:54:00:00:00:99/10.0.0.9 to vm2
  vswitchctl trace fw tcp [fd00::2]:80 to 52:54:00:00:00:02 vlan 200 len 1518
  vswitchctl trace vm1 0180c200000e 525400000001 88cc 0207
  vswitchctl trace vm1 @incident.pcapng:17")]
pub(crate) struct TraceArgs {
    /// The port that the frame is to come from.
    #[arg(add = complete::ports())]
    pub(crate) port: String,
    /// The frame: hex, @FILE[:N] or words.
    #[arg(required = true, trailing_var_arg = true)]
    pub(crate) frame: Vec<String>,
}

#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
Without -w prints one line per frame; with it writes pcapng, each dropped frame
with its reason as comment. Ctrl-C ends it. Capturing never holds the switch up:
frames that the reader is too slow for are left out, and counted.

Examples:
  vswitchctl capture                             all ports, a line per frame
  vswitchctl capture --drops                     what is dropped, and why
  vswitchctl capture vm1 -w vm1.pcapng --count 100
  vswitchctl capture vm1 -w - | wireshark -k -i -
  ssh host vswitchctl capture vm1 -w - | tshark -r -")]
pub(crate) struct CaptureArgs {
    /// Only frames that come from or go to this port.
    #[arg(add = complete::ports())]
    pub(crate) port: Option<String>,
    /// Only frames that are dropped.
    #[arg(long)]
    pub(crate) drops: bool,
    /// Write pcapng to this file; `-` is standard output.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) write: Option<PathBuf>,
    /// Keep only the first so many octets of each frame.
    #[arg(short, long, value_name = "OCTETS")]
    pub(crate) snap_len: Option<u32>,
    /// End after so many frames.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
Keys: ← → choose the column to sort by, r turns the order round, ↑ ↓ scroll,
q ends. Where standard output is no terminal, it prints one table over one
interval, as --once does.

Examples:
  vswitchctl top
  vswitchctl top --once --interval 5s --sort drops
  vswitchctl -o json top --once")]
pub(crate) struct TopArgs {
    /// Time over which rates are taken.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) interval: Duration,
    /// Print one table and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Column to sort by.
    #[arg(short, long, value_name = "COLUMN", default_value = "name")]
    pub(crate) sort: TopColumn,
}

/// A column that `top` can sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopColumn {
    /// Name of the port.
    Name,
    /// Name of its group.
    Group,
    /// Its state.
    State,
    /// Frames per second from the port.
    RxPps,
    /// Bits per second from the port.
    RxBps,
    /// Frames per second to the port.
    TxPps,
    /// Bits per second to the port.
    TxBps,
    /// Drops per second.
    Drops,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("vswitchctl").chain(line.split_whitespace()))
    }

    #[test]
    fn definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn commands_parse() {
        for line in [
            "apply -f a.yaml",
            "apply -f - --dry-run",
            "apply --file a.yaml --confirm 30s",
            "confirm",
            "diff -f a.yaml",
            "config",
            "config --generation 3",
            "history",
            "rollback",
            "rollback 3",
            "validate a.yaml",
            "show",
            "-o json port list",
            "port list -o yaml",
            "port ls",
            "port show vm1",
            "port add vm1 --group web --tap vm1 --mac 52:54:00:00:00:01 --vlan 100 --set enabled=false",
            "port add vm1 -g web --device vnet1",
            "port set vm1 port-group=db vlan=",
            "port set vm1 --unset vlan",
            "port del vm1",
            "port stats",
            "port stats vm1 -H",
            "port export vm1",
            "port import vm1 -f vm1.json",
            "group list",
            "group show web",
            "uplink list",
            "uplink show up1",
            "team list",
            "team show web",
            "mac list --port vm1 --vlan 100",
            "mac add vm1 52:54:00:00:00:01 --vlan 3",
            "mac del vm1 52:54:00:00:00:01",
            "mac flush",
            "trace vm1 arp who-has 10.0.0.2",
            "trace vm1 @x.pcap:3",
            "capture",
            "capture vm1 --drops -w - --snap-len 64 --count 3",
            "events -f --since 5m",
            "events --since 2026-01-31T12:00:00Z",
            "top --once --sort rx-bps --interval 2s",
            "completions bash",
            "schema",
            "version",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for (line, kind) in [
            ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("shwo", ErrorKind::InvalidSubcommand),
            ("apply", ErrorKind::MissingRequiredArgument),
            ("apply -f a --dry-run --confirm 30s", ErrorKind::ArgumentConflict),
            ("apply -f a --confirm soon", ErrorKind::ValueValidation),
            ("port add vm1 --group web", ErrorKind::MissingRequiredArgument),
            (
                "port add vm1 --group web --tap a --device b",
                ErrorKind::ArgumentConflict,
            ),
            (
                "port add vm1 --group web --tap a --mac 52:54",
                ErrorKind::ValueValidation,
            ),
            ("port set vm1", ErrorKind::MissingRequiredArgument),
            ("trace vm1", ErrorKind::MissingRequiredArgument),
            ("capture --count 0", ErrorKind::ValueValidation),
            ("events --since yesterday", ErrorKind::ValueValidation),
            ("-o xml show", ErrorKind::InvalidValue),
        ] {
            assert_eq!(parse(line).err().map(|error| error.kind()), Some(kind), "{line}");
        }
    }

    #[test]
    fn misspelt_commands_are_suggested() {
        let error = parse("port lst").unwrap_err().to_string();
        assert!(error.contains("'list'"), "{error}");
    }
}
