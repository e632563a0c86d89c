// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/loader/detail/loader_engine.h>
#include <lockstep/data/loader/detail/loader_types.h>
#include <lockstep/data/loader/detail/sample_source.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace lockstep::data {

/// How spawned workers, which start as a fresh run of the program, get their dataset: by a name and
/// a string.
///
///     int main() {
///       lockstep::data::DatasetRegistry registry;
///       registry.add("pictures", [](const std::string& root) { return Pictures(root); });
///       if (auto status = lockstep::data::maybe_worker_main(registry)) return *status;
///       ...
///       DataLoader loader(Pictures(root), sampler,
///           DataLoaderOptions().workers(2).kind(WorkerKind::Spawn).spawn("pictures", root));
///
/// Thread-safety: none; a value.
class LOCKSTEP_API DatasetRegistry {
 public:
  /// Makes the dataset of a worker.
  using Make = std::function<detail::SampleSource(const std::string& config)>;

  /// `factory(config)` makes the dataset; it must be the one that the loader is given in the rank,
  /// and `collate` too.
  /// Throws: `c10::Error` when the name is taken.
  template <class Factory, class Collate = StackSamples>
  void add(const std::string& name, Factory factory, Collate collate = {}) {
    using Dataset = std::remove_cvref_t<std::invoke_result_t<Factory&, const std::string&>>;
    using Types = detail::LoaderTypes<Dataset, detail::DefaultSampler<Dataset>, Collate>;
    if constexpr (Types::kIsValid) {
      add_source(name, [factory = std::move(factory), collate](const std::string& config) {
        return detail::source_of(std::make_shared<Dataset>(factory(config)), collate);
      });
    }
  }

  /// Makes the dataset of this name, as a worker does.
  /// Throws: `c10::Error` with the names that there are.
  [[nodiscard]] detail::SampleSource make(const std::string& name, const std::string& config) const;

 private:
  void add_source(const std::string& name, Make make);

  std::map<std::string, Make> makers_;
};

/// Call it first of all in `main`. In a process that was started as a worker it works until the
/// loader is gone, and returns the status with which `main` shall return; in all others it returns
/// nothing at once.
///
/// Blocks: in a worker, until the loader is gone.
[[nodiscard]] LOCKSTEP_API std::optional<int> maybe_worker_main(const DatasetRegistry& registry);

}  // namespace lockstep::data
