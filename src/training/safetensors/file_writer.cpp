// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/file_writer.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <system_error>

#include "files/digest.h"
#include "native/posix/atomic_file.h"

namespace lockstep::training {
namespace {

/// The values in the order of the shape, on the CPU; `tensor` itself where they lie there so.
at::Tensor plain(const at::Tensor& tensor) {
  return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous();
}

}  // namespace

void TensorSource::read(const at::Tensor& tensor, const UsePiece& use) {
  const at::Tensor values = plain(tensor);
  const std::span bytes(static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes());
  for (std::size_t at = 0; at < bytes.size(); at += kPieceBytes) {
    use(bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at)));
  }
}

std::string write_pieces(const PlannedFile& plan, TensorSource& source, const WritePiece& write) {
  files::Digest digest;
  std::uint64_t offset = 0;
  const auto add = [&](std::span<const std::byte> bytes) {
    digest.add(bytes);
    write(offset, bytes);
    offset += bytes.size();
  };
  add(std::as_bytes(std::span(plan.header)));
  for (const auto& [name, tensor] : plan.tensors) source.read(tensor, add);
  return digest.text();
}

void write_file(const std::string& path, const PlannedFile& plan, native::FileSystem& files) {
  try {
    native::AtomicFile file(path, native::AtomicFile::Kind::Nameless, files);
    file.reserve(plan.bytes);
    TensorSource source;
    write_pieces(plan, source, [&](std::uint64_t offset, std::span<const std::byte> bytes) {
      file.write(offset, bytes);
    });
    file.publish();
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, error.what());
  }
}

}  // namespace lockstep::training
