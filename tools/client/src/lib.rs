//! tools/client
