// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/file_check.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <span>
#include <vector>

#include "files/bounded_file.h"
#include "files/digest.h"

namespace lockstep::training {
namespace {

constexpr std::uint64_t kPiece = std::uint64_t{1} << 20;

}  // namespace

void check_digest(const std::filesystem::path& path, const FileDigest& expected,
                  native::FileSystem& files) {
  const files::BoundedFile file(path.string(), files);
  TORCH_CHECK(file.size() == expected.bytes, path.string(), ": has ", file.size(), " bytes; ",
              expected.bytes, " were written");
  std::vector<std::byte> memory(static_cast<std::size_t>(std::min(file.size(), kPiece)));
  files::Digest digest;
  for (std::uint64_t at = 0; at < file.size(); at += kPiece) {
    const auto piece =
        std::span(memory).first(static_cast<std::size_t>(std::min(kPiece, file.size() - at)));
    file.read(at, piece, "the bytes");
    digest.add(piece);
  }
  TORCH_CHECK(digest.text() == expected.xxh3, path.string(),
              ": its bytes are not those that were written (their digest is ", digest.text(),
              " instead of ", expected.xxh3, ")");
}

}  // namespace lockstep::training
