// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/file_writer.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <span>
#include <system_error>

#include "files/digest.h"
#include "native/posix/atomic_file.h"

namespace lockstep::training {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;

/// The values in the order of the shape, on the CPU; `tensor` itself where they lie there so.
at::Tensor plain(const at::Tensor& tensor) {
  return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous();
}

}  // namespace

std::string write_file(const std::string& path, const PlannedFile& plan,
                       native::FileSystem& files) {
  try {
    native::AtomicFile file(path, native::AtomicFile::Kind::Nameless, files);
    file.reserve(plan.bytes);
    files::Digest digest;
    std::uint64_t offset = 0;
    const auto write = [&](std::span<const std::byte> bytes) {
      // Piece by piece, so that the processor's cache still has what the system reads next.
      for (std::size_t at = 0; at < bytes.size(); at += kPiece) {
        const auto piece = bytes.subspan(at, std::min(kPiece, bytes.size() - at));
        digest.add(piece);
        file.write(offset, piece);
        offset += piece.size();
      }
    };
    write(std::as_bytes(std::span(plan.header)));
    for (const auto& [name, tensor] : plan.tensors) {
      const at::Tensor values = plain(tensor);
      write({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()});
    }
    file.publish();
    return digest.text();
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, error.what());
  }
}

}  // namespace lockstep::training
