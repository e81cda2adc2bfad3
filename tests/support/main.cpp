// SPDX-License-Identifier: Apache-2.0
// Catch2's own main, compiled once; with Catch2 v3 it comes from the library instead.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
