-- One row per Klaviyo profile: its events, and the orders of the shop's customers with the same email.
--
-- Emails match in lower case and are not trimmed; null and empty ones match nothing. Profile and customer find each
-- other by a column that is no key of either, so each map and restrict goes the way from one to the other.
-- key: profile_id
-- map: main.int_klaviyo__profiles: profile_id
-- map: main.int_klaviyo__events: profile_id
-- map: main.int_shopify__customers:
--     SELECT profile_id FROM main.int_klaviyo__profiles
--     WHERE lower(email) IN (SELECT lower(email) FROM changed)
-- restrict: main.int_shopify__customers:
--     lower(email) IN (
--         SELECT lower(email) FROM main.int_klaviyo__profiles WHERE profile_id IN (SELECT key FROM keys)
--     )
-- map: main.fct_sales:
--     SELECT profile_id FROM main.int_klaviyo__profiles
--     WHERE lower(email) IN (
--         SELECT lower(email) FROM main.int_shopify__customers
--         WHERE customer_id IN (SELECT customer_id FROM changed)
--     )
-- restrict: main.fct_sales:
--     customer_id IN (
--         SELECT customer_id FROM main.int_shopify__customers
--         WHERE lower(email) IN (
--             SELECT lower(email) FROM main.int_klaviyo__profiles WHERE profile_id IN (SELECT key FROM keys)
--         )
--     )
WITH events AS (
    SELECT
        profile_id,
        count(*) AS events,
        min(event_datetime) AS first_event_at,
        max(event_datetime) AS last_event_at
    FROM main.int_klaviyo__events
    GROUP BY profile_id
),

sales AS (
    SELECT
        customer_id,
        count(*) AS orders,
        sum(total_sales) AS total_sales
    FROM main.fct_sales
    WHERE is_test_order IS NOT TRUE AND cancelled_at IS NULL
    GROUP BY customer_id
),

customers AS (
    SELECT
        lower(customers.email) AS email,
        min(customers.customer_id) AS customer_id,
        coalesce(sum(sales.orders), 0) AS orders,
        coalesce(sum(sales.total_sales), 0) AS total_sales
    FROM main.int_shopify__customers AS customers
    LEFT JOIN sales ON customers.customer_id = sales.customer_id
    WHERE customers.email <> ''
    GROUP BY lower(customers.email)
)

SELECT
    profiles.profile_id,
    profiles.email,
    coalesce(events.events, 0) AS events,
    events.first_event_at,
    events.last_event_at,
    customers.customer_id,
    CAST(customers.orders AS BIGINT) AS orders,
    TRY_CAST(customers.total_sales AS DECIMAL(18, 2)) AS total_sales
FROM main.int_klaviyo__profiles AS profiles
LEFT JOIN events ON profiles.profile_id = events.profile_id
LEFT JOIN customers ON lower(profiles.email) = customers.email
