//! Content-addressed store and action cache; see ARCHITECTURE.md for the map.
