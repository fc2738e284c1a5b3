//! `vswitchctl`: the administrator's command. It speaks the API of [`crate::api::model`] and nothing else, so that
//! whatever it does a program can do as well; only `validate` and `schema` work without a daemon.
//!
//! One thread, one request at a time, a connection per request. Standard output carries what was asked for (a table for
//! people, JSON or YAML for programs, exactly the API's documents), standard error the errors and remarks.
//! Exit status: 0 done, 1 failed, 2 wrong usage. A reader that goes away (`| head`) is no failure.

mod args;
mod capture;
mod client;
mod complete;
mod config;
mod error;
mod events;
mod frame;
mod mac;
mod output;
mod pcap;
mod port;
mod problems;
mod show;
mod table;
mod top;
mod trace;
mod units;
mod uplink;
mod words;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};
use client::Client;
use error::CliError;
use output::{Format, Output};

/// The whole of `vswitchctl`: reads the arguments of the process, does what they say.
pub fn main() -> ExitCode {
    complete::answer();
    let args = Args::parse();
    let format = args.output;
    let mut output = Output::stdout(format);
    let result = run(args, &mut output).and_then(|()| output.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            // What came before the error (a stream's rows) is still worth seeing.
            let _ = output.flush();
            report(&error, format);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Puts an error on standard error: prose for people, the API's error document for programs.
fn report(error: &CliError, format: Format) {
    use std::io::Write as _;
    let mut stderr = std::io::stderr().lock();
    // Nobody is left to tell when standard error can't be written.
    let _ = match format {
        Format::Json => {
            writeln!(
                stderr,
                "{}",
                serde_json::to_string(&error.document()).unwrap_or_else(|_| error.to_string())
            )
        }
        Format::Table | Format::Yaml => {
            let colour = output::colour_wanted(stderr.is_terminal());
            write!(stderr, "{}", error.render(colour))
        }
    };
}

/// Runs one command.
fn run(args: Args, output: &mut Output) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::Runtime { source })?;
    let client = Client::new(args.socket);
    runtime.block_on(async {
        match args.command {
            Command::Apply(args) => config::apply(&client, output, args).await,
            Command::Confirm => config::confirm(&client, output).await,
            Command::Diff(args) => config::diff(&client, output, args).await,
            Command::Config { generation } => config::show(&client, output, generation).await,
            Command::History => config::history(&client, output).await,
            Command::Rollback { generation } => config::rollback(&client, output, generation).await,
            Command::Validate { file } => config::validate(output, &file),
            Command::Schema => config::schema(output),
            Command::Show => show::show(&client, output).await,
            Command::Port { command } => port::port(&client, output, command).await,
            Command::Group { command } => port::group(&client, output, command).await,
            Command::Uplink { command } => uplink::uplink(&client, output, command).await,
            Command::Team { command } => uplink::team(&client, output, command).await,
            Command::Mac { command } => mac::mac(&client, output, command).await,
            Command::Trace(args) => trace::trace(&client, output, args).await,
            Command::Capture(args) => capture::capture(&client, output, args).await,
            Command::Events { follow, since } => {
                events::events(&client, output, follow, since.as_deref()).await
            }
            Command::Top(args) => top::top(&client, output, args).await,
            Command::Completions { shell } => complete::script(output, shell),
            Command::Version => show::version(&client, output).await,
        }
    })
}
