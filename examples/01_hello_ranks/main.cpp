// SPDX-License-Identifier: BSD-3-Clause
// Ranks that say hello, add up a number, and pass a message round:  mpirun -n 2 hello_ranks
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <iostream>
#include <string>

int main() {
  auto group = lockstep::init_process_group();  // any launcher, or alone
  const int rank = group->rank();
  const int size = group->size();

  // Every rank gets the sum of all ranks' numbers.
  auto sum = torch::full({1}, rank + 1, torch::kLong);
  group->all_reduce(sum).wait();

  // Each rank sends its number to the next; both calls are one piece of work.
  auto mine = torch::full({1}, rank, torch::kLong);
  auto from_previous = torch::full({1}, rank, torch::kLong);
  if (size > 1) {
    group
        ->coalesced([&] {
          group->send(mine, (rank + 1) % size);
          group->recv(from_previous, (rank + size - 1) % size);
        })
        .wait();
  }

  const std::string line = "rank " + std::to_string(rank) + " of " + std::to_string(size) + " (" +
                           std::string(to_string(group->backend())) + "): the sum is " +
                           std::to_string(sum.item<long>()) + ", the rank before me is " +
                           std::to_string(from_previous.item<long>()) + "\n";
  std::cout << line;
  group->close();
}
