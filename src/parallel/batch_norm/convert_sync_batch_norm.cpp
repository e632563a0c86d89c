// SPDX-License-Identifier: BSD-3-Clause
// Finds the batch norms of a model and everything that holds them. One is replaced only where all
// that hold it are containers whose entries can be exchanged: a holder that was not found would go
// on calling the old module, and nobody would notice.
#include <c10/util/Exception.h>
#include <lockstep/parallel/sync_batch_norm.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/container/moduledict.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <unordered_set>
#include <utility>
#include <vector>

namespace lockstep::nn {
namespace {

using ModulePtr = std::shared_ptr<torch::nn::Module>;

/// One batch norm of LibTorch's, and where it is.
struct Found {
  struct Place {
    torch::nn::Module* parent;
    std::string name;
  };
  ModulePtr module;
  std::string path;
  std::vector<Place> places;
  long holders = 0;  // entries of containers and registrations that refer to it
};

struct Survey {
  std::vector<Found> batch_norms;
  std::vector<SyncBatchNormImpl*> without_group;
  std::unordered_set<const torch::nn::Module*> seen;
};

/// Calls `act` with every entry of a container's own list that is `module`; a container holds its
/// modules there, beside their registration.
template <typename Act>
void for_each_entry(torch::nn::Module& container, const torch::nn::Module* module, Act act) {
  if (auto* sequential = container.as<torch::nn::SequentialImpl>()) {
    for (auto& entry : *sequential) {
      if (entry.ptr().get() == module) act(entry);
    }
  } else if (auto* list = container.as<torch::nn::ModuleListImpl>()) {
    for (auto& entry : *list) {
      if (entry.get() == module) act(entry);
    }
  } else if (auto* dict = container.as<torch::nn::ModuleDictImpl>()) {
    for (auto& item : *dict) {
      if (item.value().get() == module) act(item.value());
    }
  }
}

/// The replacement of one of LibTorch's batch norms; null for another module.
template <typename... Impls>
ModulePtr replacement_among(const torch::nn::Module& module,
                            const std::shared_ptr<ProcessGroup>& group) {
  ModulePtr replacement;
  const auto try_type = [&]<typename Impl>(const Impl* impl) {
    if (impl != nullptr) replacement = std::make_shared<SyncBatchNormImpl>(*impl, group);
  };
  (try_type(module.as<Impls>()), ...);
  return replacement;
}

ModulePtr make_replacement(const torch::nn::Module& module,
                           const std::shared_ptr<ProcessGroup>& group) {
  using namespace torch::nn;
  return replacement_among<BatchNorm1dImpl, BatchNorm2dImpl, BatchNorm3dImpl>(module, group);
}

template <typename... Impls>
bool is_among(const torch::nn::Module& module) {
  return (module.as<Impls>() || ...);
}

bool is_batch_norm(const torch::nn::Module& module) {
  using namespace torch::nn;
  return is_among<BatchNorm1dImpl, BatchNorm2dImpl, BatchNorm3dImpl>(module);
}

/// Not for classes derived from one: they may do more.
bool is_exactly_batch_norm(const torch::nn::Module& module) {
  const std::type_info& type = typeid(module);
  return type == typeid(torch::nn::BatchNorm1dImpl) || type == typeid(torch::nn::BatchNorm2dImpl) ||
         type == typeid(torch::nn::BatchNorm3dImpl);
}

void note_place(Survey& survey, torch::nn::Module& parent, const std::string& name,
                const ModulePtr& module, const std::string& path) {
  Found* found = nullptr;
  for (Found& known : survey.batch_norms) {
    if (known.module == module) found = &known;
  }
  if (found == nullptr) found = &survey.batch_norms.emplace_back(Found{module, path, {}, 0});
  // The first registration here counts the entries of the parent's list; one list may name it
  // twice.
  const bool is_new_parent =
      std::none_of(found->places.begin(), found->places.end(),
                   [&](const Found::Place& place) { return place.parent == &parent; });
  if (is_new_parent) for_each_entry(parent, module.get(), [&](auto&) { ++found->holders; });
  ++found->holders;
  found->places.push_back({&parent, name});
}

void walk(Survey& survey, torch::nn::Module& parent, const std::string& prefix) {
  if (!survey.seen.insert(&parent).second) return;
  for (const auto& item : parent.named_children()) {
    if (item.value() == nullptr) continue;
    const std::string path = prefix.empty() ? item.key() : prefix + "." + item.key();
    if (is_batch_norm(*item.value())) {
      note_place(survey, parent, item.key(), item.value(), path);
      continue;
    }
    auto* sync = item.value()->as<SyncBatchNormImpl>();
    if (sync != nullptr && sync->process_group() == nullptr && survey.seen.insert(sync).second) {
      survey.without_group.push_back(sync);
    } else {
      walk(survey, *item.value(), path);
    }
  }
}

/// Why this batch norm cannot be converted; empty if it can.
std::string obstacle(const Found& found) {
  const torch::nn::Module& module = *found.module;
  const std::string name = "'" + found.path + "' (" + module.name() + ")";
  if (!is_exactly_batch_norm(module)) return name + " is of a class derived from a batch norm";
  // One holder is `found` itself.
  if (found.module.use_count() - 1 == found.holders) return "";
  return name + " is held by a member or variable of its own type";
}

void replace(const Found& found, const ModulePtr& replacement) {
  for (const Found::Place& place : found.places) {
    place.parent->replace_module(place.name, replacement);
    for_each_entry(*place.parent, found.module.get(), [&](auto& entry) {
      using Entry = std::decay_t<decltype(entry)>;
      if constexpr (std::is_same_v<Entry, torch::nn::AnyModule>) {
        entry = torch::nn::AnyModule(std::dynamic_pointer_cast<SyncBatchNormImpl>(replacement));
      } else {
        entry = replacement;
      }
    });
  }
}

void check_convertible(const Survey& survey, const torch::nn::Module& root) {
  std::string obstacles;
  const auto add = [&](const std::string& text) {
    if (!text.empty()) obstacles += (obstacles.empty() ? "" : "; ") + text;
  };
  if (is_batch_norm(root)) add("the root is a batch norm (" + root.name() + ") itself");
  for (const Found& found : survey.batch_norms) add(obstacle(found));
  TORCH_CHECK(obstacles.empty(),
              "convert_sync_batchnorm: nothing was converted, because calls of these are bound to "
              "their type: ",
              obstacles,
              ". Declare each as lockstep::nn::SyncBatchNorm, with the same options, and call "
              "convert_sync_batchnorm again, or drop the variable that holds it");
}

}  // namespace

std::size_t convert_sync_batchnorm(torch::nn::Module& root,
                                   const std::shared_ptr<ProcessGroup>& group) {
  TORCH_CHECK(group != nullptr, "convert_sync_batchnorm: the process group is null");
  Survey survey;
  auto* sync = root.as<SyncBatchNormImpl>();
  if (sync != nullptr && sync->process_group() == nullptr) survey.without_group.push_back(sync);
  walk(survey, root, "");
  check_convertible(survey, root);
  for (SyncBatchNormImpl* module : survey.without_group) module->set_process_group(group);
  for (const Found& found : survey.batch_norms) {
    replace(found, make_replacement(*found.module, group));
  }
  return survey.without_group.size() + survey.batch_norms.size();
}

}  // namespace lockstep::nn
