// SPDX-License-Identifier: BSD-3-Clause
#include "files/bounded_reader.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "native/posix/file_descriptor.h"
#include "native/posix/posix_check.h"

namespace lockstep::files {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;
constexpr unsigned kZlibBuffer = 1U << 17;

}  // namespace

void BoundedReader::Close::operator()(gzFile_s* file) const noexcept {
  ::gzclose_r(file);
}

BoundedReader::BoundedReader(std::string path) : path_(std::move(path)) {
  native::FileDescriptor file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  TORCH_CHECK(file.is_open(), path_, ": cannot be opened: ", native::error_text(errno));
  struct stat info {};
  const bool is_known = ::fstat(file.get(), &info) == 0;
  TORCH_CHECK(is_known && S_ISREG(info.st_mode), path_, ": is not an ordinary file");
  const int copy = ::fcntl(file.get(), F_DUPFD_CLOEXEC, 0);  // becomes zlib's own
  file_.reset(copy >= 0 ? ::gzdopen(copy, "rb") : nullptr);
  if (file_ == nullptr && copy >= 0) ::close(copy);
  TORCH_CHECK(file_ != nullptr, path_, ": cannot be opened: no memory or descriptor left");
  ::gzbuffer(file_.get(), kZlibBuffer);
}

std::size_t BoundedReader::read_some(std::span<std::uint8_t> target, const std::string& what) {
  std::size_t done = 0;
  while (done < target.size()) {
    const auto wanted = std::min(target.size() - done, kPiece);
    const int got = ::gzread(file_.get(), target.data() + done, static_cast<unsigned>(wanted));
    if (got < 0) {
      int code = Z_OK;
      const std::string text = ::gzerror(file_.get(), &code);
      fail(offset_, what,
           code == Z_ERRNO ? native::error_text(errno) : "damaged gzip data (" + text + ")");
    }
    done += static_cast<std::size_t>(got);
    offset_ += static_cast<std::uint64_t>(got);
    if (static_cast<std::size_t>(got) < wanted) break;
  }
  return done;
}

void BoundedReader::read(std::span<std::uint8_t> target, const std::string& what) {
  const auto start = offset_;
  const auto got = read_some(target, what);
  if (got < target.size()) fail_short(start, target.size(), what);
}

std::vector<std::uint8_t> BoundedReader::read_bytes(std::uint64_t count, const std::string& what) {
  const auto start = offset_;
  std::vector<std::uint8_t> bytes;
  while (bytes.size() < count) {
    // Doubling: a header that lies costs at most twice the memory of the bytes that are really
    // there.
    const auto next =
        std::min<std::uint64_t>(count, std::max<std::uint64_t>(kPiece, bytes.size() * 2));
    const auto old = bytes.size();
    bytes.resize(static_cast<std::size_t>(next));
    const auto got = read_some(std::span(bytes).subspan(old), what);
    if (old + got < next) fail_short(start, count, what);
  }
  return bytes;
}

void BoundedReader::expect_end() {
  const auto start = offset_;
  std::uint8_t extra = 0;
  if (read_some({&extra, 1}, "the end of the file") != 0) {
    fail(start, "the end of the file", "more bytes");
  }
  // zlib hands out the last bytes before it misses the checksum behind them.
  int code = Z_OK;
  ::gzerror(file_.get(), &code);
  if (code == Z_BUF_ERROR) fail(start, "a checksum", "the end of a truncated gzip stream");
}

void BoundedReader::fail_short(std::uint64_t start, std::uint64_t count,
                               const std::string& what) const {
  int code = Z_OK;
  ::gzerror(file_.get(), &code);
  fail(offset_,
       what + " (" + std::to_string(count) + " bytes from offset " + std::to_string(start) + ")",
       code == Z_BUF_ERROR ? "the end of a truncated gzip stream" : "the end of the file");
}

void BoundedReader::fail(std::uint64_t offset, const std::string& expected,
                         const std::string& found) const {
  TORCH_CHECK(false, path_, ": at byte ", offset, ": expected ", expected, ", found ", found);
  __builtin_unreachable();
}

}  // namespace lockstep::files
