//! `kasho plugin list` and `kasho plugin accept`: which plugins and rules are in force, and
//! confirming those that are not taken unasked. What can go wrong: the engine does not
//! answer, or there is nothing of that digest to be confirmed.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::client::{Server, block_on, told as refusal};
use crate::control::proto::kasho::{AcceptRequest, Plugin, StatusRequest, StatusResponse};

/// Arguments of `kasho plugin list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    server: Server,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `kasho plugin accept`.
#[derive(Debug, Args)]
pub struct Accept {
    /// Digest of the candidate, or of the generation in force; its first 12 characters are
    /// enough. `kasho plugin list` tells both.
    digest: String,
    #[command(flatten)]
    server: Server,
}

/// Prints what is in force.
///
/// # Errors
/// The engine does not answer.
pub(super) fn list(arguments: &List, config: &Path) -> anyhow::Result<()> {
    block_on(async {
        let (mut client, _) = arguments.server.connect(config).await?;
        let status = client.get_status(StatusRequest {}).await.map_err(|e| refusal(&e))?;
        let status = status.into_inner();
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&json(&status))?);
        } else {
            print!("{}", text(&status));
        }
        Ok(())
    })
}

/// Confirms.
///
/// # Errors
/// The engine does not answer, or has nothing of this digest.
pub(super) fn accept(arguments: &Accept, config: &Path) -> anyhow::Result<()> {
    block_on(async {
        let (mut client, _) = arguments.server.connect(config).await?;
        let request = AcceptRequest { digest: arguments.digest.clone() };
        let answer = client.accept_plugin(request).await.map_err(|e| refusal(&e))?.into_inner();
        println!("{}: {}", answer.digest, answer.told);
        Ok(())
    })
}

/// The generation in one line.
pub(super) fn told(status: &StatusResponse) -> String {
    let mut line = status.generation.to_string();
    if !status.generation_digest.is_empty() {
        line += &format!(", digest {}", short(&status.generation_digest));
    }
    if status.generation_at_ms > 0 {
        line += &format!(", in force for {}", age(status.generation_at_ms));
    }
    if !status.generation_since.is_empty() {
        line += &format!(", publishing since {}", status.generation_since);
    }
    line
}

/// Plugins that run; a refused candidate stands among them for older clients.
fn running(status: &StatusResponse) -> impl Iterator<Item = &Plugin> {
    status.plugins.iter().filter(|plugin| !plugin.file.is_empty())
}

fn json(status: &StatusResponse) -> serde_json::Value {
    serde_json::json!({
        "generation": status.generation,
        "digest": status.generation_digest,
        "at_ms": status.generation_at_ms,
        "since": status.generation_since,
        "plugins": running(status).collect::<Vec<_>>(),
        "degraded": status.degraded,
        "candidate": status.candidate,
    })
}

fn text(status: &StatusResponse) -> String {
    let mut out = format!("generation {}\n", told(status));
    for plugin in running(status) {
        let version = match plugin.version.as_str() {
            "" => String::new(),
            version => format!(" {version}"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  {}: {}{version}, SHA-256 {}, compiled in {:.1} ms, for {}",
            plugin.name,
            plugin.file,
            plugin.digest,
            plugin.compile_us as f64 / 1_000.0,
            plugin.tables.join(", ")
        );
    }
    if let Some(candidate) = &status.candidate {
        let digest = match candidate.digest.as_str() {
            "" => String::new(),
            digest => format!(", digest {digest}"),
        };
        let _ = writeln!(out, "refused {} ago{digest}", age(candidate.at_ms));
        for reason in &candidate.reasons {
            let _ = writeln!(out, "  {reason}");
        }
    }
    out
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn age(at_ms: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms);
    format!("{} s", at.elapsed().unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::proto::kasho::Candidate;

    #[test]
    fn what_a_person_reads() {
        let mask = Plugin {
            name: "mask".into(),
            digest: "ab".repeat(32),
            file: "anonymize.wasm".into(),
            version: "1.2".into(),
            tables: vec!["public.users".into(), "billing.*".into()],
            compile_us: 12_340,
            ..Plugin::default()
        };
        let refused = Plugin { name: "candidate".into(), ..Plugin::default() };
        let status = StatusResponse {
            generation: 3,
            generation_digest: "0123456789abcdef".into(),
            generation_since: "0/16B3748".into(),
            plugins: vec![mask, refused],
            candidate: Some(Candidate {
                digest: "feed".into(),
                reasons: vec!["public.users.email: it was masked".into()],
                ..Candidate::default()
            }),
            ..StatusResponse::default()
        };
        let text = text(&status);
        for part in [
            "generation 3, digest 0123456789ab, publishing since 0/16B3748\n",
            "  mask: anonymize.wasm 1.2, SHA-256 abab",
            "compiled in 12.3 ms, for public.users, billing.*\n",
            ", digest feed\n  public.users.email: it was masked\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("candidate:"), "{text}");
        assert_eq!(json(&status)["plugins"].as_array().unwrap().len(), 1);
    }
}
