// SPDX-License-Identifier: BSD-3-Clause
#include "plain_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

namespace bench {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;

/// One descriptor.
class File {
 public:
  File(const std::filesystem::path& path, int flags) : number_(::open(path.c_str(), flags, 0600)) {
    check(number_, path.string());
  }
  ~File() { ::close(number_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  [[nodiscard]] int number() const { return number_; }
  static void check(std::int64_t result, const std::string& what) {
    if (result < 0) throw std::system_error(errno, std::generic_category(), what);
  }

 private:
  int number_;
};

}  // namespace

void write_plain(const std::filesystem::path& path, std::uint64_t bytes) {
  static std::vector<char> source;
  source.resize(bytes, 'x');
  const File file(path, O_WRONLY | O_CREAT | O_EXCL);
  // Without it, the first write of the pages takes far longer.
  static_cast<void>(::posix_fallocate(file.number(), 0, static_cast<off_t>(bytes)));
  for (std::uint64_t at = 0; at < bytes;) {
    const auto done =
        ::write(file.number(), &source[at], std::min<std::uint64_t>(kPiece, bytes - at));
    File::check(done, path.string());
    at += static_cast<std::uint64_t>(done);
  }
  File::check(::fsync(file.number()), path.string());
}

void read_plain(const std::vector<std::filesystem::path>& paths) {
  static std::vector<char> target;
  for (const auto& path : paths) {
    const File file(path, O_RDONLY);
    const auto bytes = std::filesystem::file_size(path);
    if (target.size() < bytes) target.resize(bytes);
    for (std::uint64_t at = 0; at < bytes;) {
      const auto done =
          ::read(file.number(), &target[at], std::min<std::uint64_t>(kPiece, bytes - at));
      File::check(done, path.string());
      if (done == 0) break;
      at += static_cast<std::uint64_t>(done);
    }
  }
}

std::vector<std::filesystem::path> newest_files(const std::filesystem::path& folder) {
  std::filesystem::path newest;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const bool is_one = entry.path().filename().string().starts_with("gen-");
    if (is_one && entry.path().extension().empty()) newest = std::max(newest, entry.path());
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(newest)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void drop_from_memory(const std::vector<std::filesystem::path>& paths) {
  for (const auto& path : paths) {
    const File file(path, O_RDONLY);
    File::check(-::posix_fadvise(file.number(), 0, 0, POSIX_FADV_DONTNEED), path.string());
  }
}

}  // namespace bench
