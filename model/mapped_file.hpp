// SPDX-License-Identifier: Apache-2.0
#pragma once

// A file mapped read-only into memory for as long as this object lives. Moving it keeps the address.
// Nothing is read until touched; pages come and go as the kernel likes.

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "runtime/result.hpp"

namespace spillway::model {

class MappedFile {
 public:
  /// Errors: kNotFound (no such file), kInvalidArgument (a directory or device), kIo (open or map refused).
  /// An empty file maps to an empty span.
  [[nodiscard]] static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }  // the path as given, for messages

  [[nodiscard]] bool contains(std::span<const std::byte> part) const noexcept;

  /// Drops the whole pages inside `part` from this process's resident memory. The bytes stay readable: touching
  /// them again reads the file again. For weights that were repacked elsewhere. Parts outside are ignored.
  void release_pages(std::span<const std::byte> part) const noexcept;

  /// Says that `part` will be read soon, in order (starts read-ahead). A hint only.
  void prefetch(std::span<const std::byte> part) const noexcept;

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string name_;
};

}  // namespace spillway::model
