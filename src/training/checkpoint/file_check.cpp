// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/file_check.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <span>
#include <vector>

#include "files/digest.h"

namespace lockstep::training {
namespace {

constexpr std::uint64_t kPiece = std::uint64_t{1} << 20;

}  // namespace

void check_size(const files::BoundedFile& file, const FileDigest& expected) {
  TORCH_CHECK(file.size() == expected.bytes, file.path(), ": has ", file.size(), " bytes; ",
              expected.bytes, " were written");
}

void read_checked(const files::BoundedFile& file, const FileDigest& expected,
                  const std::function<std::byte*(std::uint64_t offset)>& place) {
  files::Digest digest;
  file.prefetch(0, kReadAhead);
  for (std::uint64_t at = 0; at < file.size(); at += kPiece) {
    const std::span piece(place(at), static_cast<std::size_t>(std::min(kPiece, file.size() - at)));
    file.prefetch(at + kReadAhead, kPiece);
    file.read(at, piece, "the bytes");
    digest.add(piece);
  }
  TORCH_CHECK(digest.text() == expected.xxh3, file.path(),
              ": its bytes are not those that were written (their digest is ", digest.text(),
              " instead of ", expected.xxh3, ")");
}

void check_digest(const std::filesystem::path& path, const FileDigest& expected,
                  native::FileSystem& files) {
  const files::BoundedFile file(path.string(), files);
  check_size(file, expected);
  std::vector<std::byte> memory(static_cast<std::size_t>(std::min(file.size(), kPiece)));
  read_checked(file, expected, [&](std::uint64_t) { return memory.data(); });
}

}  // namespace lockstep::training
