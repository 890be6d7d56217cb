//! What a writer's id stands for.

pub(crate) use shuffle_client::blocking::Writer;

#[cfg(test)]
mod tests;
