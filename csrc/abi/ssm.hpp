// ssm.hpp: the prepared map as a handle, which the layers take too.
#pragma once

#include "core/handle.hpp"
#include "ssm/ssm.hpp"

struct refgss_ssm {
    refgss::either<refgss::ssm> made;
};
