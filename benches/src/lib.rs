//! Benchmarks of anabranch.
