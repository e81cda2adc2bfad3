// SPDX-License-Identifier: Apache-2.0
#include "model/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

namespace spillway::model {
namespace {

/// The whole pages inside `part`, or with `outward` the pages that touch it. Empty when there is none.
std::span<std::byte> pages_of(std::span<const std::byte> part, bool outward) noexcept {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data());
  const auto end = begin + part.size();
  const auto first = outward ? begin / page * page : (begin + page - 1) / page * page;
  const auto last = outward ? (end + page - 1) / page * page : end / page * page;
  if (last <= first) return {};
  return {reinterpret_cast<std::byte*>(first), last - first};
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // O_NONBLOCK: a FIFO must be refused below, not waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const Errc code = errno == ENOENT || errno == ENOTDIR ? Errc::kNotFound : Errc::kIo;
    return Error{code, path.string() + ": cannot open: " + std::strerror(errno)};
  }
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    const int reason = errno;
    ::close(fd);
    return Error{Errc::kIo, path.string() + ": cannot stat: " + std::strerror(reason)};
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    return Error{Errc::kInvalidArgument, path.string() + ": not a regular file"};
  }
  MappedFile file;
  file.name_ = path.string();
  file.size_ = static_cast<std::size_t>(info.st_size);
  if (file.size_ > 0) {
    void* address = ::mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) {
      const int reason = errno;
      file.size_ = 0;
      ::close(fd);
      return Error{Errc::kIo, path.string() + ": cannot map " + std::to_string(info.st_size) +
                                  " bytes: " + std::strerror(reason)};
    }
    file.data_ = static_cast<std::byte*>(address);
  }
  ::close(fd);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      name_(std::move(other.name_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(name_, other.name_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

bool MappedFile::contains(std::span<const std::byte> part) const noexcept {
  // std::less orders pointers into different objects too.
  const std::less_equal<const std::byte*> not_after;
  return data_ != nullptr && not_after(data_, part.data()) &&
         not_after(part.data() + part.size(), data_ + size_);
}

void MappedFile::release_pages(std::span<const std::byte> part) const noexcept {
  if (part.empty() || !contains(part)) return;
  const auto pages = pages_of(part, /*outward=*/false);
  if (!pages.empty()) ::madvise(pages.data(), pages.size(), MADV_DONTNEED);
}

void MappedFile::prefetch(std::span<const std::byte> part) const noexcept {
  if (part.empty() || !contains(part)) return;
  const auto pages = pages_of(part, /*outward=*/true);
  if (!pages.empty()) ::madvise(pages.data(), pages.size(), MADV_WILLNEED);
}

}  // namespace spillway::model
