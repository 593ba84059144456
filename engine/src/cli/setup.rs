//! `kasho setup` and `kasho teardown`: what Kasho needs in the source database, made and
//! taken away. Without `--apply` they print what they would do, as a script for psql.
//!
//! What can go wrong: the session that does it lacks a right, or somebody keeps a lock; each
//! is told with the statement it is about.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use crate::config::Config;
use crate::setup::{self, Plan, Spec, Step};
use crate::source::conninfo::Conninfo;
use crate::source::wal;

/// Where, and by whom.
#[derive(Debug, Args)]
struct Session {
    /// Connection of a superuser, or of whoever owns the tables and may make roles; by default
    /// source.url.
    #[arg(long, env = "KASHO_ADMIN_URL", hide_env_values = true, value_name = "URL")]
    admin_url: Option<SecretString>,
    /// The role that Kasho reads as; by default the user of source.url.
    #[arg(long)]
    role: Option<String>,
    /// Do it. Without this nothing is changed, and printed what would be.
    #[arg(long)]
    apply: bool,
}

/// Arguments of `kasho setup`.
#[derive(Debug, Args)]
pub struct Setup {
    #[command(flatten)]
    session: Session,
    /// Publish every table there is and will be. A table without an identity cannot be updated
    /// from then on.
    #[arg(long, conflicts_with = "tables")]
    all_tables: bool,
    /// Publish this table and no others but those named likewise.
    #[arg(long = "table", value_name = "SCHEMA.TABLE")]
    tables: Vec<String>,
    /// Leave the event triggers for schema changes out.
    #[arg(long)]
    no_ddl: bool,
}

/// Arguments of `kasho teardown`.
#[derive(Debug, Args)]
pub struct Teardown {
    #[command(flatten)]
    session: Session,
}

/// What a command needs: who reads, with which password, and who does it.
struct Known {
    spec: Spec,
    password: Option<SecretString>,
    admin: Conninfo,
    apply: bool,
}

impl Session {
    fn known(&self, path: &Path) -> anyhow::Result<Known> {
        let config = Config::load_parts(path, &["source"])?;
        let reader = wal::conninfo(&config.source)?;
        let admin = match &self.admin_url {
            Some(url) => Conninfo::parse(url.expose_secret()).context("--admin-url")?,
            None => reader.clone(),
        };
        let own = self.role.as_ref().is_none_or(|role| *role == reader.user);
        Ok(Known {
            spec: Spec {
                role: self.role.clone().unwrap_or(reader.user),
                slot: config.source.slot,
                publications: config.source.publications,
                all_tables: false,
                tables: Vec::new(),
                triggers: true,
            },
            password: reader.password.filter(|_| own),
            admin,
            apply: self.apply,
        })
    }
}

/// Sets up.
///
/// # Errors
/// The server does not answer, or refuses a statement.
pub async fn setup(arguments: &Setup, path: &Path) -> anyhow::Result<()> {
    let mut known = arguments.session.known(path)?;
    known.spec.all_tables = arguments.all_tables;
    known.spec.tables.clone_from(&arguments.tables);
    known.spec.triggers = !arguments.no_ddl;
    let client = setup::connect(&known.admin).await?;
    let plan = setup::plan(&setup::look(&client, &known.spec).await?, &known.spec);
    if known.apply && plan.password {
        let Some(password) = &known.password else {
            bail!(
                "the role {:?} is to be made, and source.url has no password for it: give it one, \
                 or make the role yourself",
                known.spec.role
            );
        };
        // The server, and its log, see only what proves it.
        let proof = postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
        let mut plan = plan;
        plan.steps[0].sql += &format!(" PASSWORD '{proof}'");
        return finish(&client, &plan).await;
    }
    say_or_do(&client, &plan, known.apply).await
}

/// Takes it all away.
///
/// # Errors
/// The server does not answer, or refuses a statement.
pub async fn teardown(arguments: &Teardown, path: &Path) -> anyhow::Result<()> {
    let known = arguments.session.known(path)?;
    let client = setup::connect(&known.admin).await?;
    let facts = setup::look(&client, &known.spec).await?;
    let plan = setup::teardown(&facts, &known.spec);
    if known.apply && matches!(facts.slot, Some(Some(_))) {
        bail!("{}", plan.notes.join("\n"));
    }
    say_or_do(&client, &plan, known.apply).await
}

async fn say_or_do(
    client: &tokio_postgres::Client,
    plan: &Plan,
    apply: bool,
) -> anyhow::Result<()> {
    if apply {
        return finish(client, plan).await;
    }
    print!("{}", plan.script());
    Ok(())
}

async fn finish(client: &tokio_postgres::Client, plan: &Plan) -> anyhow::Result<()> {
    for note in &plan.notes {
        println!("note: {note}");
    }
    for step in &plan.steps {
        setup::run(client, step, |told| println!("{told}")).await?;
        println!("done: {}", first_line(step));
    }
    if plan.steps.is_empty() {
        println!("nothing is left to do");
    }
    Ok(())
}

/// What a step was, without a password's proof.
fn first_line(step: &Step) -> String {
    let sql = step.sql.lines().next().unwrap_or_default();
    let sql = sql.split(" PASSWORD ").next().unwrap_or_default();
    let most = sql.char_indices().nth(120).map_or(sql.len(), |(at, _)| at);
    match step.what.contains(sql) {
        true => step.what.clone(),
        false => format!("{}: {}", step.what, &sql[..most]),
    }
}
