//! Logs on standard error, filtered, as text or JSON.

use super::Error;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// A peer says what it does, its libraries only what goes wrong. Those of the
/// graphics system warn about loaders, displays and layers that nobody asked for.
pub(super) const UP_FILTER: &str = "warn,wgpu=error,wgpu_core=error,wgpu_hal=error,naga=error,manta=info";
/// Other commands show results; their logs are about trouble.
pub(super) const OTHER_FILTER: &str = "warn,wgpu=error,wgpu_core=error,wgpu_hal=error,naga=error";

/// Starts logging by `flag`, else the environment's `MANTA_LOG`, else `default`.
///
/// # Errors
/// A filter that cannot be read; the error shows what one looks like.
pub(super) fn start(flag: Option<&str>, default: &str, json: bool) -> Result<(), Error> {
    let variable = std::env::var("MANTA_LOG").ok().filter(|value| !value.is_empty());
    let filter = match (flag, variable) {
        (Some(flag), _) => parse(flag, "--log")?,
        (None, Some(variable)) => parse(&variable, "MANTA_LOG")?,
        (None, None) => parse(default, "the default filter")?,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { builder.json().try_init() } else { builder.with_ansi(std::io::stderr().is_terminal()).try_init() }
}

fn parse(filter: &str, origin: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(filter).map_err(|error| {
        format!("{origin} `{filter}` is not a log filter: {error}; try `info`, `debug` or `warn,manta=debug`").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filters_and_bad_ones_are_explained() {
        for filter in [UP_FILTER, OTHER_FILTER, "info", "warn,manta=debug"] {
            assert!(parse(filter, "--log").is_ok(), "{filter}");
        }
        let error = parse("manta=loud", "--log").expect_err("no such level").to_string();
        assert!(error.contains("--log `manta=loud`") && error.contains("warn,manta=debug"), "{error}");
    }
}
