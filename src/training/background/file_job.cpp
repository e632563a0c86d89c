// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/file_job.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <span>

namespace lockstep::training {
namespace {

// Lines wait so long at most, on a slow disk a tenth of a second.
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
// The disk is waited for in parts, too: not for all of a large file at its end.
constexpr std::uint64_t kSyncBytes = std::uint64_t{32} << 20;

}  // namespace

bool TensorJob::step(native::FileSystem& files) {
  if (!file_) {
    file_.emplace(path(), native::AtomicFile::Kind::Nameless, files);
    file_->reserve(plan_.bytes);
  }
  std::size_t budget = kPieceBytes;
  while (budget > 0 && part_ <= plan_.tensors.size()) {
    const auto rest = part().subspan(done_);
    const auto piece = rest.first(std::min(rest.size(), budget));
    file_->write(offset_, piece);
    offset_ += piece.size();
    done_ += piece.size();
    since_sync_ += piece.size();
    budget -= piece.size();
    if (done_ < part().size()) break;
    ++part_;
    done_ = 0;
  }
  if (part_ <= plan_.tensors.size()) {
    if (since_sync_ >= kSyncBytes) {
      file_->sync();
      since_sync_ = 0;
    }
    return false;
  }
  file_->publish();
  return true;
}

std::span<const std::byte> TensorJob::part() const {
  if (part_ == 0) return std::as_bytes(std::span(plan_.header));
  const at::Tensor& tensor = plan_.tensors[part_ - 1].second;
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

std::map<std::string, at::Tensor> copy_for_file(const std::map<std::string, at::Tensor>& tensors) {
  const at::NoGradGuard no_gradients;
  std::map<std::string, at::Tensor> copies;
  for (const auto& [name, tensor] : tensors) {
    at::Tensor copy = tensor;
    if (tensor.defined() && tensor.layout() == c10::kStrided && !tensor.is_meta() &&
        !tensor.is_quantized()) {
      copy = at::empty_like(tensor, tensor.options().device(c10::kCPU).pinned_memory(false),
                            c10::MemoryFormat::Contiguous);
      copy.copy_(tensor.detach());
    }
    copies.emplace(name, std::move(copy));
  }
  return copies;
}

}  // namespace lockstep::training
