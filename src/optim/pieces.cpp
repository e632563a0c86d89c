// SPDX-License-Identifier: BSD-3-Clause
#include "optim/pieces.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>

namespace lockstep::optim {
namespace {

// 256 KiB of float32: four such tensors fit into the caches of common cores. A multiple of all
// vector lengths.
constexpr std::int64_t kPieceElements = 65536;

at::Tensor part_of(const at::Tensor& tensor, std::int64_t begin, std::int64_t elements) {
  // The memory is dense, so its elements can be counted in the order of the memory.
  return tensor.detach().as_strided({elements}, {1}, tensor.storage_offset() + begin);
}

ListPiece part_of_parameter(const ParameterList& list, std::size_t index, std::int64_t begin,
                            std::int64_t elements) {
  ListPiece piece;
  piece.parameters.push_back(part_of(list.parameters[index], begin, elements));
  piece.gradients.push_back(part_of(list.gradients[index], begin, elements));
  for (std::size_t k = 0; k < kStateTensors; ++k) {
    if (list.tensors[k].empty()) continue;
    piece.tensors[k].push_back(part_of(list.tensors[k][index], begin, elements));
  }
  if (!list.steps.empty()) piece.steps.push_back(list.steps[index]);
  return piece;
}

void add_parameter(ListPiece& piece, const ParameterList& list, std::size_t index) {
  piece.parameters.push_back(list.parameters[index]);
  piece.gradients.push_back(list.gradients[index]);
  for (std::size_t k = 0; k < kStateTensors; ++k) {
    if (!list.tensors[k].empty()) piece.tensors[k].push_back(list.tensors[k][index]);
  }
  if (!list.steps.empty()) piece.steps.push_back(list.steps[index]);
}

std::vector<ListPiece> pieces_of(const ParameterList& list, bool can_divide) {
  std::vector<ListPiece> pieces;
  constexpr std::int64_t kFull = kPieceElements + 1;
  std::int64_t elements = kFull;  // of the last piece
  for (std::size_t i = 0; i < list.parameters.size(); ++i) {
    const auto own = list.parameters[i].numel();
    if (own > kPieceElements && can_divide) {
      for (std::int64_t begin = 0; begin < own; begin += kPieceElements) {
        const auto count = std::min(kPieceElements, own - begin);
        pieces.push_back(part_of_parameter(list, i, begin, count));
      }
      elements = kFull;
      continue;
    }
    if (elements + own > kPieceElements) {
      pieces.emplace_back();
      elements = 0;
    }
    add_parameter(pieces.back(), list, i);
    elements += own;
  }
  return pieces;
}

}  // namespace

void for_each_piece(const ParameterList& list, bool can_divide,
                    const std::function<void(ListPiece&)>& update) {
  if (!list.device.is_cpu()) {
    ListPiece whole{list.parameters, list.gradients, list.tensors, list.steps};
    update(whole);
    return;
  }
  auto pieces = pieces_of(list, can_divide);
  const auto update_some = [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard without_gradients;  // the setting of each thread
    for (auto i = begin; i < end; ++i) update(pieces[static_cast<std::size_t>(i)]);
  };
  const auto count = static_cast<std::int64_t>(pieces.size());
  if (can_divide) {
    at::parallel_for(0, count, 1, update_some);
  } else {
    // Large tensors are left to the threads of each operator.
    update_some(0, count);
  }
}

bool has_fused_operators(const at::Device& device) {
  return device.is_cpu() || device.is_cuda() || device.is_mps() || device.is_xpu();
}

}  // namespace lockstep::optim
