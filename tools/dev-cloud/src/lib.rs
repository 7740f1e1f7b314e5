//! tools/dev-cloud
