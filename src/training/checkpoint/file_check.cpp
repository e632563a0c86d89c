// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/file_check.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace lockstep::training {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;
/// Pieces from here on are read to where they go.
constexpr std::size_t kLarge = std::size_t{64} << 10;

}  // namespace

CheckedReader::CheckedReader(const files::BoundedFile& file, const FileDigest& expected)
    : file_(file), expected_(expected) {
  TORCH_CHECK(file.size() == expected.bytes, file.path(), ": has ", file.size(), " bytes; ",
              expected.bytes, " were written");
  file.prefetch(0, kReadAhead);
}

void CheckedReader::read_piece(std::span<std::byte> target) {
  file_.prefetch(offset_ + kReadAhead, target.size());
  file_.read(offset_, target, "the bytes");
  digest_.add(target);
  offset_ += target.size();
}

void CheckedReader::fill_buffer() {
  buffer_.resize(std::min<std::uint64_t>(kPiece, file_.size() - offset_));
  left_ = buffer_;
  read_piece(left_);
}

void CheckedReader::read(std::span<std::byte> target) {
  while (!target.empty()) {
    if (left_.empty() && target.size() < kLarge) fill_buffer();
    const auto count = std::min(target.size(), left_.empty() ? kPiece : left_.size());
    if (left_.empty()) {
      read_piece(target.first(count));
    } else {
      std::copy_n(left_.begin(), count, target.begin());
      left_ = left_.subspan(count);
    }
    target = target.subspan(count);
  }
}

void CheckedReader::finish() {
  while (offset_ < file_.size()) fill_buffer();
  TORCH_CHECK(digest_.text() == expected_.xxh3, file_.path(),
              ": its bytes are not those that were written (their digest is ", digest_.text(),
              " instead of ", expected_.xxh3, ")");
}

void check_digest(const std::filesystem::path& path, const FileDigest& expected,
                  native::FileSystem& files) {
  const files::BoundedFile file(path.string(), files);
  CheckedReader(file, expected).finish();
}

}  // namespace lockstep::training
