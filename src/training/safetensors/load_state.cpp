// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/grad_mode.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>
#include <lockstep/training/load_state.h>
#include <lockstep/training/safetensors.h>

#include <cstring>
#include <set>
#include <utility>

#include "files/bounded_view.h"
#include "training/safetensors/name_list.h"
#include "training/safetensors/tensor_files.h"
#include "training/safetensors/tied_tensors.h"

namespace lockstep::training {
namespace {

/// Whether a number of `from` may become one of `to`: never a fraction an integer, nor an integer
/// one that it may not fit into.
bool can_become(c10::ScalarType from, c10::ScalarType to) {
  if (from == to) return true;
  if (!c10::isIntegralType(to, true)) return c10::canCast(from, to);
  return c10::isSignedType(from) && c10::isSignedType(to) && c10::isIntegralType(from, false) &&
         c10::elementSize(to) > c10::elementSize(from);
}

bool have_same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  return a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

/// One load: which tensor of the file goes into which of the module.
class StateLoad {
 public:
  StateLoad(torch::nn::Module& module, const std::filesystem::path& path,
            const LoadOptions& options)
      : files_(path), options_(options), state_(state_of(module)) {}

  LoadedState run() {
    find_sources();
    LoadedState found{missing(), unexpected()};
    check(found);
    copy();
    return found;
  }

 private:
  /// Empty: it does not count.
  std::string name_in_module(const std::string& name) const {
    if (!name.starts_with(options_.prefix())) return "";
    std::string own = name.substr(options_.prefix().size());
    return options_.rename() ? options_.rename()(own) : own;
  }

  void find_sources() {
    for (const auto& name : files_.names()) {
      const std::string own = name_in_module(name);
      if (own.empty()) continue;
      const auto [before, is_new] = source_of_.emplace(own, name);
      TORCH_CHECK(is_new, files_.path(), ": the tensors ", files::in_quotes(before->second),
                  " and ", files::in_quotes(name), " would both be ", files::in_quotes(own),
                  "; see LoadOptions::rename");
    }
  }

  std::vector<std::string> missing() const {
    std::set<const void*> loaded;
    for (const auto& [name, tensor] : state_) {
      if (source_of_.contains(name)) loaded.insert(tensor.unsafeGetTensorImpl());
    }
    std::vector<std::string> names;
    for (const auto& [name, tensor] : state_) {
      if (!loaded.contains(tensor.unsafeGetTensorImpl())) names.push_back(name);
    }
    return names;
  }

  std::vector<std::string> unexpected() const {
    std::vector<std::string> names;
    for (const auto& [own, name] : source_of_) {
      if (!state_.contains(own)) names.push_back(own);
    }
    return names;
  }

  void check(const LoadedState& found) const {
    const auto quoted = [](const std::vector<std::string>& names) {
      std::vector<std::string> texts;
      for (std::size_t i = 0; i < names.size(); ++i) {
        texts.push_back(i < kListedNames ? files::in_quotes(names[i]) : "");
      }
      return list_of(texts);
    };
    if (options_.strict() && !(found.missing.empty() && found.unexpected.empty())) {
      TORCH_CHECK(
          false, files_.path(), ": its names are not those of the module.",
          found.missing.empty() ? "" : " Missing in the file: " + quoted(found.missing) + ".",
          found.unexpected.empty() ? "" : " Not in the module: " + quoted(found.unexpected) + ".",
          " With LoadOptions().strict(false), the others are loaded");
    }
    std::vector<std::string> unfit;
    for (const auto& [own, name] : source_of_) {
      const auto target = state_.find(own);
      if (target == state_.end()) continue;
      const SafetensorsTensor& place = files_.place(name);
      const std::string where = files::in_quotes(own) + " ";
      if (target->second.sizes() != at::IntArrayRef(place.shape)) {
        unfit.push_back(where + "has shape " + text_of(place.shape) + " in the file and " +
                        text_of(target->second.sizes()) + " in the module");
      } else if (!can_become(place.dtype, target->second.scalar_type())) {
        unfit.push_back(where + "is " + c10::toString(place.dtype) + " in the file and " +
                        c10::toString(target->second.scalar_type()) + " in the module");
      }
    }
    TORCH_CHECK(unfit.empty(), files_.path(), ": ", list_of(unfit), "; nothing was loaded");
    check_tied();
  }

  /// One tensor of the module cannot have two values.
  void check_tied() const {
    std::map<const void*, std::string> first;
    for (const auto& [own, name] : source_of_) {
      const auto target = state_.find(own);
      if (target == state_.end()) continue;
      const auto [other, is_new] = first.emplace(target->second.unsafeGetTensorImpl(), name);
      TORCH_CHECK(is_new || have_same_bits(files_.read(other->second), files_.read(name)),
                  files_.path(), ": the tensors ", files::in_quotes(other->second), " and ",
                  files::in_quotes(name),
                  " differ, and are one tensor in the module; nothing was loaded");
    }
  }

  void copy() const {
    const at::NoGradGuard no_gradients;
    for (const auto& [own, name] : source_of_) {
      const auto target = state_.find(own);
      if (target != state_.end()) target->second.detach().copy_(files_.read(name));
    }
  }

  TensorFiles files_;
  const LoadOptions& options_;
  std::map<std::string, at::Tensor> state_;
  std::map<std::string, std::string> source_of_;  // by the name in the module
};

}  // namespace

LoadedState load_state(torch::nn::Module& module, const std::filesystem::path& path,
                       const LoadOptions& options) {
  return StateLoad(module, path, options).run();
}

std::map<std::string, at::Tensor> state_of(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> state;
  const auto add = [&](const auto& named) {
    for (const auto& item : named) {
      if (item.value().defined()) state.emplace(item.key(), item.value());
    }
  };
  add(module.named_parameters());
  add(module.named_buffers());
  return state;
}

void save_state(const torch::nn::Module& module, const std::filesystem::path& path,
                std::map<std::string, std::string> metadata) {
  save_with_tied(path, state_of(module), std::move(metadata));
}

}  // namespace lockstep::training
