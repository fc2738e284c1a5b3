//! `vswitchd`: the daemon of the switch.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::config::text;
use control::run::{RunError, Settings, load_file, run};
use control::store::is_checking;
use tracing_subscriber::EnvFilter;

/// Exit status of a failure that is not about the command line.
const FAILED: u8 = 1;

/// The daemon of the virtual switch.
///
/// It takes up the configuration that was last in force, or the configuration file where that has been edited since,
/// and then listens to `vswitchctl`.
#[derive(Debug, Parser)]
#[command(
    name = "vswitchd",
    version,
    after_help = "Signals:
  SIGTERM, SIGINT  stop; put everything back as it was found
  SIGHUP           apply the configuration file again

The file is applied at the start if it has changed since it was last applied;
otherwise the configuration in the state directory is taken up, with all changes
made through vswitchctl.

Examples:
  vswitchd                                    /etc/vswitch/switch.yaml and the usual places
  vswitchd -f lab.yaml --state /tmp/lab --socket /tmp/lab.sock --metrics off
  vswitchd --check lab.yaml                   say what is wrong with a file, and end"
)]
struct Args {
    /// Configuration file; the default one need not be there
    #[arg(
        short = 'f',
        long,
        value_name = "FILE",
        default_value = "/etc/vswitch/switch.yaml"
    )]
    config: PathBuf,

    /// Directory of the stored configuration and its history
    #[arg(long, value_name = "DIR", default_value = "/var/lib/vswitch")]
    state: PathBuf,

    /// Unix socket of the API
    #[arg(long, value_name = "PATH", default_value = "/run/vswitch/ctl.sock")]
    socket: PathBuf,

    /// Permissions of the socket, octal; who may change things is decided by user and group in any case
    #[arg(long, value_name = "MODE", default_value = "0666", value_parser = parse_mode)]
    socket_mode: u32,

    /// Address for Prometheus (/metrics and /healthz), or `off`
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9731")]
    metrics: String,

    /// Check a configuration file, list all its errors, and end
    #[arg(long, value_name = "FILE", exclusive = true)]
    check: Option<PathBuf>,

    /// What to log to standard error: error, warn, info, debug or trace, or a filter of tracing-subscriber
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "VSWITCHD_LOG")]
    log: String,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "an octal number from 0 to 0777 is expected".to_owned())
}

fn main() -> ExitCode {
    let matches = <Args as clap::CommandFactory>::command().get_matches();
    let named = matches.value_source("config") != Some(clap::parser::ValueSource::DefaultValue);
    let args = match <Args as clap::FromArgMatches>::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    if let Some(path) = &args.check {
        return match text::read_file(path) {
            Ok(text) => ended(load_file(path, text).map(|_| ())),
            Err(source) => ended(Err(RunError::File {
                path: path.clone(),
                source,
            })),
        };
    }
    start_log(&args.log);
    let settings = Settings {
        config: args.config,
        config_named: named,
        state: args.state,
        socket: args.socket,
        socket_mode: args.socket_mode,
        metrics: Some(args.metrics).filter(|address| address != "off"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => ended(runtime.block_on(run(settings))),
        Err(error) => {
            eprintln!("vswitchd: the event loop cannot be started: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn start_log(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("vswitchd: --log {filter}: {error}; `info` is used");
        EnvFilter::new("info")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    std::panic::set_hook(Box::new(|panic| {
        if is_checking() {
            tracing::debug!("while the store was checked: {panic}");
            return;
        }
        tracing::error!("a defect in vswitchd: {panic}");
    }));
}

fn ended(result: Result<(), RunError>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    if let RunError::Config { path, problems, .. } = &error {
        for problem in problems {
            eprint!("{}:", path.display());
            if problem.line > 0 {
                eprint!("{}:{}:", problem.line, problem.column);
            }
            if problem.path.is_empty() {
                eprint!(" {}", problem.message);
            } else {
                eprint!(" {}: {}", problem.path, problem.message);
            }
            match &problem.help {
                Some(help) => eprintln!("; {help}"),
                None => eprintln!(),
            }
        }
    }
    eprintln!("vswitchd: {error}");
    ExitCode::from(FAILED)
}
