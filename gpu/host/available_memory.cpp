// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/available_memory.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace spillway::gpu::host {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();

/// The number behind `key` in a file of lines "key number ...".
std::optional<std::size_t> find_number(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  std::string name, rest;
  for (std::size_t number = 0; file >> name >> number; std::getline(file, rest)) {
    if (name == key) return number;
  }
  return std::nullopt;
}

/// A file that holds one number; empty for "max" and where there is none.
std::optional<std::size_t> read_number(const fs::path& path) {
  std::ifstream file(path);
  std::size_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

/// What a cgroup has left; pages of files that it would give back count as left.
std::size_t left_in_group(const fs::path& group, const char* limit_file, const char* usage_file,
                          const char* files_key) {
  const std::optional<std::size_t> limit = read_number(group / limit_file),
                                   usage = read_number(group / usage_file);
  if (!limit || !usage) return kUnlimited;
  const std::size_t files = find_number(group / "memory.stat", files_key).value_or(0);
  const std::size_t used = *usage - std::min(*usage, files);
  return *limit - std::min(*limit, used);
}

/// The process's path below the hierarchy of `controller`, "" for version 2, as /proc/self/cgroup has it.
std::optional<fs::path> group_of(const fs::path& root, const std::string& controller) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // number:controllers:path
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers.find("," + controller + ",") == std::string::npos) continue;
    return fs::path(line.substr(second + 1)).relative_path();
  }
  return std::nullopt;
}

/// The least that is left in any group from the process's up to the root of what it can see.
std::size_t left_in_groups(const fs::path& hierarchy, const std::optional<fs::path>& group,
                           const char* limit_file, const char* usage_file, const char* files_key) {
  std::size_t left = left_in_group(hierarchy, limit_file, usage_file, files_key);
  if (!group) return left;
  for (fs::path path = *group; !path.empty(); path = path.parent_path())
    left = std::min(left, left_in_group(hierarchy / path, limit_file, usage_file, files_key));
  return left;
}

/// What the system may still promise, where it promises no more than it has.
std::size_t left_to_commit(const fs::path& root) {
  constexpr std::size_t kNeverOvercommit = 2;
  if (read_number(root / "proc/sys/vm/overcommit_memory") != kNeverOvercommit) return kUnlimited;
  const std::optional<std::size_t> limit = find_number(root / "proc/meminfo", "CommitLimit:"),
                                   promised = find_number(root / "proc/meminfo", "Committed_AS:");
  return limit && promised ? (*limit - std::min(*limit, *promised)) << 10 : kUnlimited;
}

std::size_t left_of_address_space(const fs::path& root) {
  rlimit limit{};
  const std::optional<std::size_t> pages = read_number(root / "proc/self/statm");
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || !pages) return kUnlimited;
  const std::size_t used = *pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return limit.rlim_cur - std::min<std::size_t>(limit.rlim_cur, used);
}

}  // namespace

std::size_t available_memory_bytes(const fs::path& root) {
  const std::optional<std::size_t> kib = find_number(root / "proc/meminfo", "MemAvailable:");
  const fs::path cgroup = root / "sys/fs/cgroup";
  return std::min(
      {kib ? *kib << 10 : kUnlimited, left_to_commit(root), left_of_address_space(root),
       left_in_groups(cgroup, group_of(root, ""), "memory.max", "memory.current", "inactive_file"),
       left_in_groups(cgroup / "memory", group_of(root, "memory"), "memory.limit_in_bytes",
                      "memory.usage_in_bytes", "total_inactive_file")});
}

}  // namespace spillway::gpu::host
