// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>

namespace spillway::gpu::host {

/// Bytes that this process may still take without swapping: the least of what the system has (/proc/meminfo; where
/// it does not overcommit, what it may still promise), what the process's cgroup, of either version, and those
/// around it allow, and what its address space may grow by (ulimit -v). The largest number where nothing says.
/// `root`: where /proc and /sys are, for tests.
[[nodiscard]] std::size_t available_memory_bytes(const std::filesystem::path& root = "/");

}  // namespace spillway::gpu::host
