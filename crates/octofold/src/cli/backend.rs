//! `octofold backend`: the table of an engine's abilities, for reading, editing and giving back with `--backend-config`.

use anyhow::Result;
use clap::Args;
use octofold::passes::backend::BackendConfig;

#[derive(Args)]
pub(crate) struct Backend {
    /// The engine: fbgemm or qnnpack.
    name: String,
}

impl Backend {
    pub(crate) fn execute(&self) -> Result<()> {
        print!("{}", BackendConfig::named(&self.name)?.to_toml());
        Ok(())
    }
}
